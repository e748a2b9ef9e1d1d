from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import thfuse_sam as th
from thfuse_sam.cli.commands import precompute, predict
from thfuse_sam.errors import CheckpointError, DeviceError, ImageReadError, ImageSizeError, OptionError, UsageError
from thfuse_sam.masks import shards
from thfuse_sam.options.generator import GENERATOR_DEFAULTS
from thfuse_sam.sam.checkpoints import shipped_checkpoint
from thfuse_sam.sam.generator import AutomaticMaskGenerator
from thfuse_sam.sam.registry import build_sam

FEW = {"points_per_side": 4}
FEW_OPTIONS = ("--sam_model_type", "vit_nano", "--device", "cpu", "--points_per_side", "4")


@pytest.fixture(scope="module")
def sam() -> th.Sam:
    return th.Sam.load("vit_nano", device="cpu", **FEW)


def test_equal_to_the_command(pair: tuple[Path, Path], sam: th.Sam, tmp_path: Path) -> None:
    for modality, path in zip(("ir", "vi"), pair, strict=True):
        (tmp_path / modality).mkdir()
        (tmp_path / modality / path.name).symlink_to(path)
    folder, tree = str(tmp_path), str(tmp_path / "tree")
    argv = ["--dataset_path", folder, "--output_dir", tree, "--save_instances", *FEW_OPTIONS]
    assert precompute.main(argv) == 0
    made = th.MaskTree(tree)
    for modality, path in (("ir", pair[0]), ("vi", pair[1])):
        infrared = pair[0] if modality == "vi" else None
        found = th.masks(path, sam="vit_nano", modality=modality, infrared=infrared, device="cpu", **FEW)
        assert found.label_map.dtype == made[modality, path.stem].dtype
        assert np.array_equal(found, made[modality, path.stem]) and found.label_map.max() > 0
        instances = made.instances(modality, path.stem)
        assert len(instances) == len(found.instances) == len(found)
        for mine, stored in zip(found.instances, instances, strict=True):
            assert np.array_equal(mine.mask, stored["mask"]) and mine.score == stored["predicted_iou"]
            assert mine.area == stored["area"]
    assert len(made) == 2 and list(made) == [("ir", pair[0].stem), ("vi", pair[1].stem)]
    assert made.names("ir") == [pair[0].stem] and ("vi", pair[1].stem) in made and ("vi", "other") not in made
    again = th.precompute(folder, tmp_path / "again", sam)
    assert (again.written, again.failures) == (2, {})
    for path in Path(tree).rglob("*.npy"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(tree)).read_bytes()
    ir, vi = (tmp_path / modality for modality in ("ir", "vi"))
    assert th.precompute((ir, vi), made, "vit_nano", device="cpu", save_instances=True, **FEW).written == 0


def test_a_tree_is_made_by_the_given_model(pair: tuple[Path, Path], tmp_path: Path) -> None:
    sam = th.Sam.load("vit_nano", device="cpu", thermal_points=0, **FEW)
    with torch.no_grad():
        for weights in sam.generator.sam.mask_decoder.iou_prediction_head.parameters():
            weights.zero_()
    assert [len(sam.generate(path)) for path in pair] == [0, 0]
    for modality, path in zip(("ir", "vi"), pair, strict=True):
        (tmp_path / modality).mkdir()
        (tmp_path / modality / path.name).symlink_to(path)
    made = th.precompute(tmp_path, tmp_path / "tree", sam)
    assert (made.written, made.empty) == (2, 2)


def test_images_of_all_kinds(pair: tuple[Path, Path], sam: th.Sam) -> None:
    image = np.array(Image.open(pair[1]).convert("RGB"))
    expected = sam.generate(pair[1])
    for given in (image, Image.fromarray(image), str(pair[1])):
        assert np.array_equal(th.masks(given, sam), expected)
    assert np.array_equal(th.masks(image / 255, sam, value_range=(0, 1)), expected)
    assert np.array_equal(expected.image, image) and expected.overlay().shape == image.shape
    assert np.asarray(expected, dtype=float).dtype == float


def test_prompts_equal_the_command(pair: tuple[Path, Path], sam: th.Sam, tmp_path: Path) -> None:
    argv = ["--input", str(pair[1]), "--output_dir", str(tmp_path), "--sam_model_type", "vit_nano", "--device", "cpu"]
    assert predict.main([*argv, "--points", "120,80", "100,60,0", "--boxes", "10,20,200,180"]) == 0
    found = sam.predict(pair[1], points=[[(120, 80), (100, 60, 0)]], boxes=[(10, 20, 200, 180)])
    [path] = tmp_path.rglob("*.npy")
    assert np.array_equal(found, np.load(path)) and len(found.instances) == 2
    points, boxes = torch.tensor([[[120, 80], [100, 60]]]), torch.tensor([[10, 20, 200, 180]])
    assert len(sam.predict(pair[1], points=points, boxes=boxes)) == 2


def test_masks_are_the_same_whatever_is_the_default_type(pair: tuple[Path, Path]) -> None:
    def made() -> list[th.Masks]:
        sam = th.Sam.load("vit_nano", device="cpu", **FEW)
        points, boxes = [[(120, 80), (100, 60, 0)]], [(10, 20, 200, 180)]
        return [sam.generate(pair[1], infrared=pair[0]), sam.predict(pair[1], points=points, boxes=boxes)]

    torch.set_default_dtype(torch.float64)
    try:
        doubles = made()
    finally:
        torch.set_default_dtype(torch.float32)
    for found, expected in zip(doubles, made(), strict=True):
        assert np.array_equal(found, expected) and len(expected)
        assert [one.score for one in found.instances] == [one.score for one in expected.instances]


def test_what_shards_hold_is_read_once_and_new_ones_are_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    original = shards._read_index
    monkeypatch.setattr(shards, "_read_index", lambda shard: read.append(shard) or original(shard))
    tree = th.MaskTree(tmp_path)
    for names in (("a", "b"), ("c",)):
        writer = shards.ShardWriter(tmp_path)
        for name in names:
            writer.write("ir", name, np.ones((4, 6), np.uint8))
        writer.close()
        assert tree["ir", names[0]].all() and ("ir", names[-1]) in tree
    assert tree.names("ir") == ["a", "b", "c"] and len(read) == 1 + 2


def test_a_model_has_its_own_defaults(sam: th.Sam) -> None:
    plain = AutomaticMaskGenerator(build_sam("vit_nano", shipped_checkpoint()))
    assert plain.settings == GENERATOR_DEFAULTS["vit_nano"]
    assert th.Sam.load("vit_nano", device="cpu").generator.settings == GENERATOR_DEFAULTS["vit_nano"]
    assert sam.model_type == "vit_nano" and sam.checkpoint == shipped_checkpoint()
    assert sam.generator.settings.points_per_side == 4


def test_bad_input_is_one_sentence(sam: th.Sam, tmp_path: Path) -> None:
    image = np.zeros((32, 32), np.uint8)
    (tmp_path / "model.pth").write_bytes(b"none")
    cases = [
        (lambda: th.masks(image, sam="vit_x"), UsageError, "^`sam` vit_x: unknown model type; use auto, vit_h"),
        (lambda: th.Sam.load("vit_x"), UsageError, "^`model` vit_x: unknown"),
        (lambda: th.Sam.load(checkpoint=tmp_path / "model.pth"), CheckpointError, r"^`checkpoint` .*model\.pth"),
        (lambda: th.Sam.load(checkpoint="no.pth"), CheckpointError, r"^`checkpoint` no\.pth"),
        (
            lambda: th.Sam.load("vit_nano", points=3),
            UsageError,
            "`points`: no such setting; did you mean",
        ),
        (lambda: th.Sam.load("vit_nano", points_per_side=0), OptionError, "`points_per_side` 0: must be a whole"),
        (lambda: th.masks(image, sam, points_per_side=3), UsageError, "`points_per_side`: `sam` is a loaded model"),
        (
            lambda: th.precompute(tmp_path, tmp_path, sam, points_per_side=3),
            UsageError,
            "`points_per_side`: `sam` is a",
        ),
        (lambda: th.masks(image, "vit_nano", device="gpu"), DeviceError, "`device` gpu"),
        (lambda: sam.generate("no.png"), ImageReadError, "no.png"),
        (lambda: sam.generate(image, modality="x"), UsageError, "`modality` x"),  # type: ignore[arg-type]
        (lambda: sam.generate(image, infrared=image[:9]), ImageSizeError, "`infrared` is 32x9 and `image` 32x32"),
        (lambda: sam.generate(image, modality="ir", infrared=image), UsageError, "`infrared`: is for a visible"),
        (lambda: sam.generate(image, ir_polarity="black-hot"), UsageError, "`ir_polarity` black-hot: is for infrared"),
        (lambda: sam.predict(image), UsageError, "`points` and `boxes` are empty"),
        (lambda: sam.predict(image, points=[[(40, 2)]]), UsageError, "`points` 40,2: lies outside"),
        (
            lambda: sam.predict(image, boxes=[(0.1, 0.2, 0.5, 0.9)]),
            UsageError,
            "0.1,0.2,0.5,0.9: seems to be in fractions",
        ),
        (lambda: sam.predict(image, points=[[(0.3, 0.4)]]), UsageError, "in fractions of the image"),
        (lambda: sam.predict(image, points=[[(4, 2, 0)]]), UsageError, "at least one inside"),
        (lambda: sam.predict(image, points=[(4, 2)]), UsageError, r"`points` \(4, 2\): give for each object \["),  # type: ignore[list-item]
        (lambda: sam.predict(image, points=[[(4, 2, 1, 9)]]), UsageError, "give for each object"),
        (lambda: sam.predict(image, boxes=(1, 2, 3, 4)), UsageError, "`boxes` 1: give"),  # type: ignore[arg-type]
        (lambda: sam.predict(image, boxes=[(1, 2, 3)]), UsageError, r"`boxes` \(1, 2, 3\): give"),
        (lambda: th.precompute(tmp_path, tmp_path, "vit_x"), UsageError, "^`sam` vit_x"),
        (
            lambda: th.precompute(tmp_path, n_job=2),
            UsageError,
            "`n_job`: no such option; did you mean n_jobs",
        ),
        (lambda: th.precompute(("a", "b", "c")), UsageError, "`pairs`"),
        (lambda: th.precompute([(image, image)]), UsageError, "`pairs` a list of 1: give a folder"),  # type: ignore[arg-type]
        (lambda: th.Sam.load("vit_nano", points_per_side=image), OptionError, "`points_per_side` .*: must be a wh"),
        (lambda: th.MaskTree(tmp_path)["it", "a"], th.ThFuseError, r"it.*give \('ir' or 'vi', the"),
        (lambda: th.MaskTree(tmp_path)["ir"], th.ThFuseError, r"^ir: no such mask; give \('ir' or 'vi', the"),  # type: ignore[index]
        (lambda: th.MaskTree(tmp_path).names("it"), th.ThFuseError, "no such mask"),  # type: ignore[arg-type]
        (lambda: th.MaskTree(None), UsageError, "`root` None: give a path"),  # type: ignore[arg-type]
        (
            lambda: th.precompute(tmp_path, output_dir="x"),
            UsageError,
            "`output_dir`: `tree` says it here; leave",
        ),
        (lambda: th.precompute(tmp_path, tmp_path, sam, device="cpu"), UsageError, "`device`: `sam` is a loaded model"),
        (lambda: th.precompute(tmp_path, tmp_path, sam, verify=True), UsageError, "`verify`: makes no masks"),
        (lambda: th.train(tmp_path, dataset_path="x"), UsageError, "`dataset_path`: `pairs` says it here"),
        (lambda: th.MaskTree(tmp_path / "model.pth"), UsageError, "`root` .*model.pth: a file; give the folder"),
        (lambda: th.MaskTree(tmp_path).instances("ir", 3), th.ThFuseError, "no such mask; give"),  # type: ignore[arg-type]
        (lambda: th.Sam.load(checkpoint=5), UsageError, "`checkpoint` 5: give a path"),  # type: ignore[arg-type]
        (lambda: th.masks(image, "vit_nano", points_per_side=[1]), OptionError, r"`points_per_side` \[1\]: must be a"),
        (lambda: th.masks(image, [sam]), UsageError, "`sam` a list of 1: give a model type"),  # type: ignore[arg-type]
        (lambda: sam.predict(image, points=None), UsageError, "`points` None: give a list"),  # type: ignore[arg-type]
        (lambda: sam.generate(image).overlay(opacity=2), UsageError, "`opacity` 2: give a number from 0 to 1"),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message) as caught:
            call()
        assert "--" not in str(caught.value) and "\n" not in str(caught.value)
