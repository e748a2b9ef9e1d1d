from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from thfuse_sam.errors import MaskReadError, UsageError
from thfuse_sam.masks.embeddings import EmbeddingFiles, ImageEmbedding

EMBEDDING = ImageEmbedding(np.arange(24, dtype=np.float16).reshape(2, 3, 4), (12, 16), (480, 640))


def test_what_was_written_is_read(tmp_path: Path) -> None:
    tree = EmbeddingFiles(tmp_path)
    assert not tree.has("ir", "a/scene.v2")
    tree.write("ir", "a/scene.v2", EMBEDDING.to_bytes())
    found = tree.read("ir", "a/scene.v2")
    np.testing.assert_array_equal(found.features, EMBEDDING.features)
    assert found.features.dtype == np.float16
    assert (found.input_size, found.image_size) == ((12, 16), (480, 640))
    assert tree.names("ir") == ["a/scene.v2"]
    tree.remove("ir", "a/scene.v2")
    assert tree.names("ir") == []


def changed(**arrays: np.ndarray) -> bytes:
    return safetensors.numpy.save({**safetensors.numpy.load(EMBEDDING.to_bytes()), **arrays})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"broken",
        EMBEDDING.to_bytes()[:-1],
        safetensors.numpy.save({"features": EMBEDDING.features}),
        changed(features=EMBEDDING.features + np.float16(1)),
        changed(features=np.zeros((2, 3, 4), np.float32)),
        changed(features=np.zeros((3, 4), np.float16)),
        changed(features=np.full((2, 3, 4), np.nan, np.float16)),
        changed(image_size=np.array([480, 0])),
        changed(image_size=np.array([480, 640, 1])),
        changed(input_size=np.array([4.0, 5.0])),
    ],
)
def test_a_damaged_embedding(tmp_path: Path, content: bytes) -> None:
    tree = EmbeddingFiles(tmp_path)
    tree.write("vi", "a", content)
    with pytest.raises(MaskReadError, match=r"a\.safetensors: .*`save_embeddings` again") as caught:
        tree.read("vi", "a")
    assert "\n" not in str(caught.value)


def test_older_files_have_no_checksum() -> None:
    arrays = safetensors.numpy.load(EMBEDDING.to_bytes())
    del arrays["crc32"]
    read = ImageEmbedding.from_bytes(safetensors.numpy.save(arrays))
    np.testing.assert_array_equal(read.features, EMBEDDING.features)


def test_a_missing_embedding_and_a_name_outside(tmp_path: Path) -> None:
    with pytest.raises(MaskReadError, match="no such embedding"):
        EmbeddingFiles(tmp_path).read("ir", "a")
    with pytest.raises(UsageError, match="would leave"):
        EmbeddingFiles(tmp_path).path("ir", "../a")
