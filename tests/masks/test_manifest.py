import dataclasses
import json
from pathlib import Path

import pytest

from thfuse_sam.errors import ManifestError
from thfuse_sam.masks.manifest import Manifest, Signature, require_same_signature

SIGNATURE = Signature(
    model_type="vit_b",
    checkpoint_sha256="ab" * 32,
    generator={"points_per_side": 32, "pred_iou_thresh": 0.88, "crop_overlap_ratio": 512 / 1500, "extra": None},
    package_version="1.0",
)


def test_save_and_load(tmp_path: Path) -> None:
    manifest = Manifest(
        SIGNATURE,
        sources=[{"ir": "/data/夜/ir"}],
        counts={"ir": 3, "vi": 2},
        failures=[{"modality": "vi", "name": "a", "path": "/data/vi/a.png", "reason": "truncated"}],
    )
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    require_same_signature(Manifest.load(tmp_path), SIGNATURE)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_other_settings_are_named_with_both_values() -> None:
    asked = dataclasses.replace(
        SIGNATURE, model_type="vit_h", generator={**SIGNATURE.generator, "points_per_side": 16, "new": 1}
    )
    with pytest.raises(ManifestError) as caught:
        require_same_signature(Manifest(SIGNATURE), asked)
    message = str(caught.value)
    for part in ("model_type vit_b (asked: vit_h)", "points_per_side 32 (asked: 16)", "new None (asked: 1)"):
        assert part in message
    assert "pred_iou_thresh" not in message and "checkpoint" not in message
    assert "`output_dir`" in message and "`overwrite`" in message and "\n" not in message


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint_sha256": "cd" * 32},
        {"precision": "fp16"},
        {"generator": {"points_per_side": 32}},
        {"generator": {**SIGNATURE.generator, "extra": 0}},
    ],
)
def test_every_setting_counts(change: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        require_same_signature(Manifest(SIGNATURE), dataclasses.replace(SIGNATURE, **change))


def test_package_version_does_not_count() -> None:
    require_same_signature(Manifest(SIGNATURE), dataclasses.replace(SIGNATURE, package_version="2.0"))


def test_differences_of_some_settings() -> None:
    assert SIGNATURE.differences({"model_type": "vit_b", "points_per_side": 32}) == []
    assert SIGNATURE.differences({"points_per_side": 8}) == ["points_per_side 32 (asked: 8)"]


def edited(**changes: object) -> str:
    content = {"format_version": 1, **dataclasses.asdict(Manifest(SIGNATURE)), **changes}
    return json.dumps({key: value for key, value in content.items() if value is not None})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '"\\ud800"',
        edited(signature=[]),
        edited(signature={"model_type": "vit_b"}),
        edited(signature={**dataclasses.asdict(SIGNATURE), "generator": 1}),
        edited(format_version=2),
        edited(format_version=None),
        edited(sources=[1]),
        edited(sources=[{"ir": 1}]),
        edited(failures={}),
        edited(counts={"ir": "many"}),
        edited(counts=None),
    ],
)
def test_damaged_manifest(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text, encoding="utf-8")
    with pytest.raises(ManifestError, match=r"manifest\.json: .*; choose another `output_dir`") as caught:
        Manifest.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_missing_and_binary_manifest(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"no such file; make the mask tree with `precompute\(\)`"):
        Manifest.load(tmp_path)
    (tmp_path / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ManifestError, match="not readable"):
        Manifest.load(tmp_path)
