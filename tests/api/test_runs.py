from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import thfuse_sam as th
from thfuse_sam.cli import commands
from thfuse_sam.training.checkpoint import load_checkpoint


def weights(path: Path) -> dict[str, torch.Tensor]:
    return dict(load_checkpoint(path).weights)


def require_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_training_equals_the_command_and_tells_its_progress(make_pairs, tmp_path: Path) -> None:
    pairs = make_pairs(("a", "b", "c"))
    options = {"max_steps": 2, "crop_size": 32, "batch_size": 2, "device": "cpu", "val_fraction": 0.34}
    seen: list[tuple[int, int | None]] = []
    made = th.train(pairs, output_dir=tmp_path / "api", progress=lambda *count: seen.append(count), **options)
    argv = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    folders = ["--dataset_path", str(pairs), "--precomputed_masks_dir", "none", "--output_dir", str(tmp_path / "cli")]
    assert commands.train.main([*folders, *argv]) == 0
    assert made.step == 2 and seen == [(1, 2), (2, 2)]
    require_equal(weights(made.latest), weights(tmp_path / "cli" / made.latest.name))
    with pytest.raises(
        th.ThFuseError, match=r"`masks` .*no such folder; make it of your pairs with `precompute\(\)` `tree` .*no, or"
    ):
        th.train(pairs, tmp_path / "no", output_dir=tmp_path / "more")
    with pytest.raises(th.ThFuseError, match=r"`epoch`: no such option; did you mean epochs[?]$"):
        th.train(pairs, epoch=3)


@pytest.mark.slow
def test_finetuning_equals_the_command(tmp_path: Path) -> None:
    for number in range(3):
        image = np.random.default_rng(number).integers(0, 90, (48, 64, 3), dtype=np.uint8)
        objects = np.zeros((48, 64), np.uint8)
        objects[10:30, 20:50] = 1
        image[objects > 0] += 120
        for folder, pixels in (("images", image), ("instances", objects)):
            (tmp_path / "data" / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "data" / folder / f"{number}.png")
    options = {"sam_model_type": "vit_nano", "max_steps": 1, "device": "cpu", "exp_name": "run"}
    made = th.finetune(tmp_path / "data", output_dir=tmp_path / "api", **options)
    argv = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    assert (
        commands.finetune.main(["--data_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "cli"), *argv])
        == 0
    )
    other = tmp_path / "cli" / made.run.best_file.relative_to(tmp_path / "api")
    assert made.run.best_file.read_bytes() == other.read_bytes() and made.fine_tuned
