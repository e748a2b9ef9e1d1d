"""A run that is killed again and again ends with the tree of an uninterrupted one; shards and embeddings too."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pytest

from tests.masks.file_times import wait_for_another_time
from thfuse_sam.errors import ManifestError, OutputError
from thfuse_sam.images import MODALITIES, Modality, write_image
from thfuse_sam.masks import shards
from thfuse_sam.masks.embeddings import EmbeddingFiles
from thfuse_sam.masks.image_records import RECORDS_NAME, record_image
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.masks.store import open_masks
from thfuse_sam.masks.tree import partial_files
from thfuse_sam.masks.verify import verify_tree
from thfuse_sam.precompute.jobs import JobSettings, list_jobs
from thfuse_sam.precompute.plan import Plan, plan_precompute, require_embeddings
from thfuse_sam.precompute.worker import make_masks
from thfuse_sam.precompute.writing import RunSummary, save_manifest

from .conftest import jobs_of

pytestmark = pytest.mark.usefixtures("stub_masks")


def make_plan(root: Path, folders: dict[Modality, Path], **options: Any) -> Plan:
    from stub_masks import SIGNATURE

    return plan_precompute(root, jobs_of(folders), folders, options.pop("signature", SIGNATURE), **options)


def fill(plan: Plan, generator: Any = None, num_workers: int = 0) -> RunSummary:
    from stub_masks import Stub, precompute

    summary = RunSummary()
    precompute(plan, generator or Stub(), summary, num_workers=num_workers)
    return summary


def masks_in(root: Path) -> dict[str, bytes]:
    store = open_masks(root)
    return {
        f"{modality}/{name}": store.read(modality, name, None).tobytes()
        for modality in MODALITIES
        for name in store.names(modality)
    }


# Plans and fills until it is killed; importing is the slow part, so one process does it and forks for each attempt.
KILLED_AGAIN_AND_AGAIN = """
import os, random, signal, sys, time
from pathlib import Path
import stub_masks
from thfuse_sam.precompute.jobs import JobSettings, list_jobs
from thfuse_sam.precompute.plan import plan_precompute
from thfuse_sam.precompute.writing import RunSummary

root, data, store = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
folders = {modality: data / modality for modality in ("ir", "vi")}
jobs = list_jobs({key: {path.stem: path for path in folder.iterdir()} for key, folder in folders.items()})

class Slow(stub_masks.Stub):
    def generate(self, image, infrared=None):
        time.sleep(0.02)
        return super().generate(image)

def attempt():
    plan = plan_precompute(root, jobs, folders, stub_masks.SIGNATURE, store=store, shard_size=3,
                           options=JobSettings(save_instances=True))
    stub_masks.precompute(plan, Slow(), RunSummary(), num_workers=2)

moments = random.Random(5)
kills = 0
for _ in range(10):
    child = os.fork()
    if child == 0:
        try:
            attempt()
        finally:
            os._exit(0)
    time.sleep(moments.uniform(0.01, 0.08))
    os.kill(child, signal.SIGKILL)
    kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
attempt()
print(kills)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL and no fork")
@pytest.mark.parametrize("store", ["npy", "shards"])
def test_killed_ten_times(tmp_path: Path, images: dict[Modality, Path], store: str) -> None:
    options = JobSettings(save_instances=True)
    fill(make_plan(tmp_path / "whole", images, options=options))
    root = tmp_path / "killed"
    done = subprocess.run(
        [sys.executable, "-c", KILLED_AGAIN_AND_AGAIN, str(root), str(tmp_path), store],
        check=True,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert int(done.stdout) >= 3, "too few attempts were killed on their way"
    assert masks_in(root) == masks_in(tmp_path / "whole")
    assert Manifest.load(root) == Manifest.load(tmp_path / "whole")
    assert make_plan(root, images, options=options).todo == []
    if store == "npy":
        whole = {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*") if path.is_file()}
        found = {path.relative_to(root) for path in root.rglob("*") if path.is_file() and path.suffix != ".partial"}
        assert found == whole
        assert all((root / path).read_bytes() == (tmp_path / "whole" / path).read_bytes() for path in whole)
    report = verify_tree(
        open_masks(root), {key: {p.stem: p for p in folder.iterdir()} for key, folder in images.items()}
    )
    assert report.sound == 20
    assert [line for line in report.problems() if not line.startswith("partial")] == []


# Shards


@pytest.mark.parametrize("num_workers", [0, 2])
def test_shards_hold_the_masks_of_the_tree(tmp_path: Path, images: dict[Modality, Path], num_workers: int) -> None:
    fill(make_plan(tmp_path / "tree", images))
    plan = make_plan(tmp_path / "shards", images, store="shards", shard_size=8)
    assert fill(plan, num_workers=num_workers).written == 20
    assert len(list((tmp_path / "shards" / "shards").glob("*.tar"))) == 3
    assert masks_in(tmp_path / "shards") == masks_in(tmp_path / "tree")
    assert Manifest.load(tmp_path / "shards").counts == {"ir": 10, "vi": 10}
    assert make_plan(tmp_path / "shards", images).todo == []
    assert make_plan(tmp_path / "shards", images).store == "shards"


def test_one_place_has_one_kind_of_store(tmp_path: Path, images: dict[Modality, Path]) -> None:
    fill(make_plan(tmp_path / "tree", images))
    fill(make_plan(tmp_path / "shards", images, store="shards"))
    with pytest.raises(ManifestError, match=r"`store` shards: .* holds masks as npy; choose another `output_dir`"):
        make_plan(tmp_path / "tree", images, store="shards")
    with pytest.raises(ManifestError, match="`store` npy"):
        make_plan(tmp_path / "shards", images, store="npy")


def test_overwriting_shards(tmp_path: Path, images: dict[Modality, Path]) -> None:
    from stub_masks import SIGNATURE

    root = tmp_path / "shards"
    fill(make_plan(root, images, store="shards"))
    only_ir: dict[Modality, Path] = {"ir": images["ir"]}
    with pytest.raises(ManifestError, match="take 10 masks out of the shards"):
        make_plan(root, only_ir, overwrite=True)
    other = replace(SIGNATURE, generator={"points_per_side": 8})
    fill(make_plan(root, images, overwrite=True, signature=other))
    assert len(list((root / "shards").glob("*.tar"))) == 1
    assert Manifest.load(root).signature == other


def test_an_interrupted_run_keeps_its_open_shard(tmp_path: Path, images: dict[Modality, Path]) -> None:
    from stub_masks import Stub

    class Stopping(Stub):
        left = 5

        def generate(self, image: npt.NDArray[np.uint8], infrared: Any = None) -> Sequence[Any]:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().generate(image)

    root = tmp_path / "shards"
    with pytest.raises(KeyboardInterrupt):
        fill(make_plan(root, images, store="shards"), Stopping(), num_workers=2)
    assert len(make_plan(root, images).todo) == 15
    assert partial_files(root) == []
    fill(make_plan(root, images))
    assert len(masks_in(root)) == 20


def test_a_full_disk_while_shards_are_written(
    tmp_path: Path, images: dict[Modality, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    add, room = shards._OpenShard.add, 4

    def limited(shard: Any, members: dict[str, bytes]) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        add(shard, members)

    monkeypatch.setattr(shards._OpenShard, "add", limited)
    root, summary = tmp_path / "shards", RunSummary()
    plan = make_plan(root, images, store="shards")
    from stub_masks import Stub, precompute

    with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
        precompute(plan, Stub(), summary, num_workers=2)
    assert summary.written == 4
    monkeypatch.undo()
    assert len(make_plan(root, images).todo) == 16


# Embeddings


def test_embeddings_replace_the_encoder(tmp_path: Path, images: dict[Modality, Path]) -> None:
    from stub_masks import SIGNATURE, Stub

    encoder = replace(SIGNATURE, generator={})
    keeping = {"options": JobSettings(save_embeddings=True), "embedding_signature": encoder}
    fill(make_plan(tmp_path / "first", images))
    assert len(make_plan(tmp_path / "first", images, **keeping).todo) == 20
    fill(make_plan(tmp_path / "first", images, **keeping), num_workers=2)
    assert make_plan(tmp_path / "first", images, **keeping).todo == []
    kept = EmbeddingFiles(tmp_path / "first" / "embeddings")
    assert len(kept.names("ir")) == len(kept.names("vi")) == 10
    require_embeddings(kept.root, encoder, jobs_of(images), images)

    class Counting(Stub):
        encoded = 0

        def encode(self, image: npt.NDArray[np.uint8]) -> Any:
            self.encoded += 1
            return super().encode(image)

    generator = Counting()
    fill(make_plan(tmp_path / "second", images, options=JobSettings(embeddings=kept)), generator, num_workers=2)
    assert generator.encoded == 0
    # One that is missing, one that is broken and one of another image are made anew, with the same masks.
    kept.remove("ir", "00")
    kept.write("ir", "01", b"broken")
    write_image(images["vi"] / "02.png", np.full((3, 4, 3), 210, np.uint8))
    fill(make_plan(tmp_path / "third", images, options=JobSettings(embeddings=kept)), generator)
    assert generator.encoded == 3
    second, third = masks_in(tmp_path / "second"), masks_in(tmp_path / "third")
    assert [key for key in second if second[key] != third[key]] == ["vi/02"]


def test_embeddings_of_another_encoder_or_of_other_images_are_refused(
    tmp_path: Path, images: dict[Modality, Path]
) -> None:
    from stub_masks import SIGNATURE

    encoder = replace(SIGNATURE, generator={})
    keeping = {"options": JobSettings(save_embeddings=True), "embedding_signature": encoder}
    fill(make_plan(tmp_path / "tree", images, **keeping))
    root = tmp_path / "tree" / "embeddings"
    other = replace(encoder, checkpoint_sha256="1" * 64)
    with pytest.raises(ManifestError, match=r"checkpoint_sha256 0+\.\.\. \(asked: 1+\.\.\.\)"):
        require_embeddings(root, other, jobs_of(images), images)
    with pytest.raises(ManifestError, match="checkpoint_sha256"):
        make_plan(tmp_path / "tree", images, **{**keeping, "embedding_signature": other})
    foreign: dict[Modality, Path] = {"ir": tmp_path / "foreign"}
    write_image(foreign["ir"] / "00.png", np.full((12, 16, 3), 9, np.uint8))
    with pytest.raises(ManifestError, match="another image"):
        require_embeddings(root, encoder, jobs_of(foreign), foreign)
    with pytest.raises(ManifestError, match="no such file"):
        require_embeddings(tmp_path / "nowhere", encoder, jobs_of(images), images)


def test_masks_are_made_only_as_fast_as_they_are_taken(images: dict[Modality, Path]) -> None:
    from stub_masks import Stub

    seen: list[int] = []

    class Counting(Stub):
        def generate(self, image: npt.NDArray[np.uint8], infrared: Any = None) -> Sequence[Any]:
            seen.append(1)
            return super().generate(image)

    results = make_masks(jobs_of(images), Counting(), JobSettings(), num_workers=2)
    next(results)
    assert len(seen) == 1
    results.close()  # type: ignore[attr-defined]
    assert len(seen) == 1


# Images that change


def replace_image(path: Path, value: int) -> None:
    """Give an image other pixels at the same size; its time of change is that of before."""
    times = path.stat()
    wait_for_another_time(path)
    write_image(path, np.full((12, 16, 3), value, np.uint8))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.mark.parametrize("store", ["npy", "shards"])
def test_masks_of_changed_images_are_made_again(tmp_path: Path, images: dict[Modality, Path], store: Any) -> None:
    root = tmp_path / "masks"
    fill(make_plan(root, images, store=store))
    assert make_plan(root, images).todo == []
    replace_image(images["ir"] / "03.png", 90)
    (images["vi"] / "04.png").touch()  # the content is the same
    sets = {modality: {path.stem: path for path in folder.iterdir()} for modality, folder in images.items()}
    assert [line for line in verify_tree(open_masks(root), sets).problems() if line.startswith("changed")] == [
        f"changed: {open_masks(root).location('ir', '03')}: {images['ir'] / '03.png'} has changed since"
    ]
    plan = make_plan(root, images)
    assert [str(job) for job in plan.todo] == ["ir 03"] and plan.changed == 1 and plan.finished == 19
    fill(plan)
    assert make_plan(root, images).todo == [] and verify_tree(open_masks(root), sets).problems() == []


@pytest.mark.parametrize("modality", ["vi", "both"])
def test_warm_places_follow_the_infrared_image(
    tmp_path: Path, images: dict[Modality, Path], modality: Modality | Literal["both"]
) -> None:
    root = tmp_path / "masks"
    sets = {key: {path.stem: path for path in folder.iterdir()} for key, folder in images.items()}
    asked = {key: paths for key, paths in sets.items() if modality in (key, "both")}

    from stub_masks import SIGNATURE

    def plan() -> Plan:
        return plan_precompute(root, list_jobs(asked, sets["ir"]), images, SIGNATURE)

    fill(plan())
    assert plan().todo == []
    replace_image(images["ir"] / "03.png", 90)
    (images["ir"] / "04.png").touch()
    assert f"{images['ir'] / '03.png'} has changed" in "".join(verify_tree(open_masks(root), sets).lines["changed"])
    assert [str(job) for job in plan().todo] == [f"{key} 03" for key in ("ir", "vi") if key in asked]
    if modality == "both":  # a run that was stopped between the two
        fill(replace(first := plan(), todo=first.todo[:1]))
        assert [str(job) for job in plan().todo] == ["vi 03"]
    fill(plan())
    assert plan().todo == [] and not plan().records


def test_visible_masks_follow_infrared_images_that_are_added(tmp_path: Path, images: dict[Modality, Path]) -> None:
    from stub_masks import SIGNATURE

    root, signature = tmp_path / "masks", replace(SIGNATURE, generator={**SIGNATURE.generator, "thermal_points": 4})
    sets = {key: {path.stem: path for path in folder.iterdir()} for key, folder in images.items()}
    few = {name: path for name, path in sets["ir"].items() if name != "03"}
    fill(plan_precompute(root, list_jobs({"vi": sets["vi"]}, few), images, signature))
    plan = plan_precompute(root, list_jobs({"vi": sets["vi"]}, sets["ir"]), images, signature)
    assert [str(job) for job in plan.todo] == ["vi 03"]
    assert not verify_tree(open_masks(root), {"vi": sets["vi"]}).lines["changed"]  # infrared images may be the same
    [line] = verify_tree(open_masks(root), sets).lines["changed"]
    assert str(images["ir"] / "03.png") in line
    fill(plan)
    for infrared in (sets["ir"], {}):  # without them nobody knows whether they have changed
        plan = plan_precompute(root, list_jobs({"vi": sets["vi"]}, infrared), images, signature)
        assert plan.todo == [] and not plan.records


@pytest.mark.parametrize("modality", ["vi", "both"])
def test_a_visible_image_whose_infrared_image_cannot_be_read_fails(
    tmp_path: Path, images: dict[Modality, Path], modality: Modality | Literal["both"]
) -> None:
    from stub_masks import SIGNATURE

    root, broken = tmp_path / "masks", images["ir"] / "03.png"
    sets = {key: {path.stem: path for path in folder.iterdir()} for key, folder in images.items()}
    asked = {key: paths for key, paths in sets.items() if modality in (key, "both")}
    content = broken.read_bytes()
    broken.write_bytes(content[:-40])
    summary = fill(plan_precompute(root, list_jobs(asked, sets["ir"]), images, SIGNATURE))
    assert [str(job) for job in summary.failures] == [f"{key} 03" for key in ("ir", "vi") if key in asked]
    assert all(str(broken) in reason for reason in summary.failures.values())
    broken.write_bytes(content)
    plan = plan_precompute(root, list_jobs(asked, sets["ir"]), images, SIGNATURE)
    assert [str(job) for job in plan.todo] == [f"{key} 03" for key in ("ir", "vi") if key in asked]


def test_a_copied_data_set_is_compared_by_content(tmp_path: Path, images: dict[Modality, Path]) -> None:
    root = tmp_path / "masks"
    fill(make_plan(root, images))
    moved = {modality: tmp_path / "copy" / modality for modality in MODALITIES}
    for modality, folder in moved.items():
        shutil.copytree(images[modality], folder)
        shutil.rmtree(images[modality])
    replace_image(moved["vi"] / "00.png", 90)
    plan = make_plan(root, moved)
    assert [str(job) for job in plan.todo] == ["vi 00"]
    fill(plan)
    assert not make_plan(root, moved).records  # the new times are noted, so nothing is read again


def test_a_tree_without_records_takes_them_over(tmp_path: Path, images: dict[Modality, Path]) -> None:
    root = tmp_path / "masks"
    fill(make_plan(root, images))
    (root / RECORDS_NAME).unlink()
    masks = masks_in(root)
    plan = make_plan(root, images)
    assert plan.todo == [] and plan.changed == 0
    save_manifest(plan, RunSummary())
    assert masks_in(root) == masks
    replace_image(images["ir"] / "03.png", 90)
    assert [str(job) for job in make_plan(root, images).todo] == ["ir 03"]


def test_embeddings_of_changed_images_are_not_used(tmp_path: Path, images: dict[Modality, Path]) -> None:
    root = tmp_path / "masks"
    fill(make_plan(root, images, options=JobSettings(save_embeddings=True), embedding_signature=signature()))
    tree = EmbeddingFiles(root / "embeddings")
    assert tree.is_of("ir", "03", record_image(images["ir"] / "03.png"))
    replace_image(images["ir"] / "03.png", 90)
    assert not tree.is_of("ir", "03", record_image(images["ir"] / "03.png"))


def signature() -> Any:
    from stub_masks import SIGNATURE

    return SIGNATURE
