"""Embeddings on disk: keys, rounding, damage."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from thfuse_sam.finetune.embedding_cache import EmbeddingCache, encoder_signature
from thfuse_sam.sam.geometry import Frame
from thfuse_sam.sam.nano import build_vit_nano

FRAME = Frame.of((480, 640), 1024)


@pytest.fixture
def cache(tmp_path: Path) -> EmbeddingCache:
    return EmbeddingCache(tmp_path, "signature")


def files(cache: EmbeddingCache) -> list[Path]:
    return [path for path in cache.folder.rglob("*") if path.is_file()]


def test_what_is_stored_is_what_is_loaded(cache: EmbeddingCache) -> None:
    embedding = torch.randn(256, 64, 64)
    assert cache.load("ab" * 20) is None
    rounded = cache.store("ab" * 20, embedding, FRAME)
    loaded = cache.load("ab" * 20)
    assert loaded is not None and torch.equal(loaded, rounded) and loaded.dtype == torch.float16
    assert torch.allclose(rounded.float(), embedding, rtol=1e-3, atol=1e-4)
    (file,) = files(cache)
    assert 2 * 2**20 <= file.stat().st_size < 2 * 2**20 + 1000


def test_key_is_of_size_and_pixels() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    other = image.copy()
    other[3, 5, 2] = 1
    keys = {EmbeddingCache.key(value) for value in (image, other, image.reshape(6, 4, 3))}
    assert len(keys) == 3
    assert EmbeddingCache.key(image.copy()) in keys


def test_signature_is_of_weights_preprocessing_and_precision() -> None:
    torch.manual_seed(0)
    sam = build_vit_nano(64)
    first = encoder_signature(sam)
    assert encoder_signature(sam) == first
    with torch.no_grad():
        sam.mask_decoder.iou_token.weight.add_(1)
    assert encoder_signature(sam) == first, "the decoder has no part in an embedding"
    sam.pixel_mean += 1
    second = encoder_signature(sam)
    with torch.no_grad():
        next(sam.image_encoder.parameters()).view(-1)[0] += 1e-3
    third = encoder_signature(sam)
    sam.image_encoder.img_size = 128
    fourth = encoder_signature(sam)
    assert len({first, second, third, fourth, encoder_signature(sam, "bf16")}) == 5


@pytest.mark.parametrize("damage", ["truncate", "flip", "empty", "text"])
def test_damaged_entries_are_made_again(cache: EmbeddingCache, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    embedding = torch.randn(4, 8, 8)
    cache.store("cd" * 20, embedding, FRAME)
    (file,) = files(cache)
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-3] ^= 64
    file.write_bytes({"truncate": content[:-10], "empty": b"", "text": b"no tensor"}.get(damage, bytes(content)))
    with caplog.at_level(logging.WARNING):
        assert cache.load("cd" * 20) is None
    assert "made again" in caplog.text
    assert torch.equal(cache.load("cd" * 20) or cache.store("cd" * 20, embedding, FRAME), embedding.half())
    assert cache.load("cd" * 20) is not None


def test_full_disk_is_reported_once_and_work_goes_on(
    cache: EmbeddingCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with caplog.at_level(logging.WARNING):
        for key in ("ab" * 20, "cd" * 20):
            assert cache.store(key, torch.ones(1, 2, 2), FRAME).tolist() == [[[1, 1], [1, 1]]]
    assert caplog.text.count("No space left") == 1
    assert not files(cache)
