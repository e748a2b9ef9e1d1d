"""Filling a mask tree with a stub in place of SAM: resume, refusals, failures, interruptions."""

import errno
import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from thfuse_sam.errors import ManifestError, OutputError
from thfuse_sam.images import MODALITIES, Modality, read_for_sam, read_infrared_and_missing, write_image
from thfuse_sam.masks.format import paint_label_map
from thfuse_sam.masks.instances import read_instances
from thfuse_sam.masks.manifest import MANIFEST_NAME, Manifest
from thfuse_sam.masks.tree import INSTANCES_SUFFIX, MaskFiles, partial_files
from thfuse_sam.precompute import worker as mask_making
from thfuse_sam.precompute.jobs import Job, JobSettings, list_jobs
from thfuse_sam.precompute.plan import Plan, plan_precompute
from thfuse_sam.precompute.writing import RunSummary
from thfuse_sam.thermal import InfraredReading

from .stub_masks import SIGNATURE, Segment, precompute


class StubGenerator:
    """Two overlapping segments by brightness; `on_image` may raise instead."""

    def __init__(self, on_image: Callable[[int], None] = lambda number: None) -> None:
        self.images: list[npt.NDArray[np.uint8]] = []
        self._on_image = on_image

    def generate(self, image: npt.NDArray[np.uint8], infrared: Any = None) -> Sequence[Segment]:
        self.images.append(image)
        self._on_image(len(self.images))
        return [Segment(image[..., 0] > 200), Segment(image[..., 0] > 100)]


@pytest.fixture
def images(tmp_path: Path) -> dict[Modality, Path]:
    """Folders with three pairs of random images, one of them nested and with a dotted, accented name."""
    generator = np.random.default_rng(0)
    for modality in MODALITIES:
        for name in ("0", "nuit/scène.v2", "z"):
            image = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            write_image(tmp_path / modality / f"{name}.png", image)
    return {modality: tmp_path / modality for modality in MODALITIES}


def jobs_of(folders: dict[Modality, Path]) -> list[Job]:
    found = {
        modality: {path.relative_to(folder).as_posix()[:-4]: path for path in folder.rglob("*.png")}
        for modality, folder in folders.items()
    }
    return list_jobs(found)


def make_plan(
    root: Path, folders: dict[Modality, Path], *, overwrite: bool = False, save_instances: bool = False, **options: Any
) -> Plan:
    options["options"] = JobSettings(save_instances=save_instances)
    return plan_precompute(root, jobs_of(folders), folders, SIGNATURE, overwrite=overwrite, **options)


def fill(plan: Plan, generator: StubGenerator | None = None, num_workers: int = 0) -> RunSummary:
    summary = RunSummary()
    precompute(plan, generator or StubGenerator(), summary, num_workers=num_workers)
    return summary


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


@pytest.mark.parametrize("num_workers", [0, 1, 3, 20])
def test_every_image_gets_the_generators_label_map(
    tmp_path: Path, images: dict[Modality, Path], num_workers: int
) -> None:
    plan = make_plan(tmp_path / "tree", images)
    summary = fill(plan, num_workers=num_workers)

    assert (summary.written, summary.failures) == (6, {})
    for job in plan.jobs:
        image = read_for_sam(job.image, job.modality)
        segments = StubGenerator().generate(image)
        expected = paint_label_map([segment.mask for segment in segments], image.shape[:2])
        np.testing.assert_array_equal(MaskFiles(plan.root).read(job.modality, job.name, image.shape[:2]), expected)
    manifest = Manifest.load(tmp_path / "tree")
    assert manifest.signature == SIGNATURE
    assert manifest.counts == {"ir": 3, "vi": 3}
    assert partial_files(plan.root) == []


def test_pairs_are_made_together(images: dict[Modality, Path]) -> None:
    assert [str(job) for job in jobs_of(images)][:3] == ["ir 0", "vi 0", "ir nuit/scène.v2"]


def test_planning_writes_nothing(tmp_path: Path, images: dict[Modality, Path]) -> None:
    assert len(make_plan(tmp_path / "tree", images).todo) == 6
    assert not (tmp_path / "tree").exists()


def test_finished_masks_are_kept(tmp_path: Path, images: dict[Modality, Path]) -> None:
    fill(make_plan(tmp_path / "tree", images))
    before = contents(tmp_path / "tree")
    (tmp_path / "tree" / "vi" / "z.npy").unlink()

    plan = make_plan(tmp_path / "tree", images)

    assert [str(job) for job in plan.todo] == ["vi z"]
    assert plan.finished == 5
    generator = StubGenerator()
    fill(plan, generator)
    assert len(generator.images) == 1
    assert contents(tmp_path / "tree") == before


def test_a_mask_of_another_size_or_a_broken_one_is_made_anew(tmp_path: Path, images: dict[Modality, Path]) -> None:
    root = tmp_path / "tree"
    fill(make_plan(root, images))
    write_image(images["ir"] / "0.png", np.zeros((5, 6, 3), np.uint8))
    (root / "vi" / "0.npy").write_bytes((root / "vi" / "0.npy").read_bytes()[:-1])
    (root / "vi" / "z.npy").write_bytes(b"no mask")
    plan = make_plan(root, images)
    assert [str(job) for job in plan.todo] == ["ir 0", "vi 0", "vi z"]
    fill(plan)
    assert make_plan(root, images).todo == []


def test_other_settings_are_refused_and_named(tmp_path: Path, images: dict[Modality, Path]) -> None:
    fill(make_plan(tmp_path / "tree", images))
    other = replace(SIGNATURE, generator={"points_per_side": 8})
    with pytest.raises(ManifestError, match=r"points_per_side 4 \(asked: 8\).*`output_dir`.*`overwrite`"):
        plan_precompute(tmp_path / "tree", jobs_of(images), images, other)


def test_overwriting_with_other_settings(tmp_path: Path, images: dict[Modality, Path]) -> None:
    root = tmp_path / "tree"
    fill(make_plan(root, images, save_instances=True))
    other = replace(SIGNATURE, generator={"points_per_side": 8})
    plan = plan_precompute(root, jobs_of(images), images, other, overwrite=True)
    assert len(plan.todo) == 6
    fill(plan)
    assert Manifest.load(root).signature == other
    # Instances of the old settings would belong to no mask.
    assert MaskFiles(plan.root).names("ir", INSTANCES_SUFFIX) == []


def test_overwriting_a_part_with_other_settings_is_refused(tmp_path: Path, images: dict[Modality, Path]) -> None:
    fill(make_plan(tmp_path / "tree", images))
    only_ir: dict[Modality, Path] = {"ir": images["ir"]}
    other = replace(SIGNATURE, checkpoint_sha256="1" * 64)
    with pytest.raises(ManifestError, match="would leave 3 masks"):
        plan_precompute(tmp_path / "tree", jobs_of(only_ir), only_ir, other, overwrite=True)
    assert len(make_plan(tmp_path / "tree", only_ir, overwrite=True).todo) == 3


def test_overwriting_can_be_interrupted_and_resumed(tmp_path: Path, images: dict[Modality, Path]) -> None:
    root = tmp_path / "tree"
    fill(make_plan(root, images))

    def stop(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fill(make_plan(root, images, overwrite=True), StubGenerator(stop))
    # No old mask may pass for a new one.
    assert len(make_plan(root, images).todo) == 4


def test_masks_without_a_manifest_are_refused(tmp_path: Path, images: dict[Modality, Path]) -> None:
    fill(make_plan(tmp_path / "tree", images))
    (tmp_path / "tree" / MANIFEST_NAME).unlink()
    with pytest.raises(ManifestError, match=r"no manifest\.json"):
        make_plan(tmp_path / "tree", images)
    assert len(make_plan(tmp_path / "tree", images, overwrite=True).todo) == 6


def test_a_damaged_manifest_is_refused_unless_all_is_overwritten(tmp_path: Path, images: dict[Modality, Path]) -> None:
    fill(make_plan(tmp_path / "tree", images))
    (tmp_path / "tree" / MANIFEST_NAME).write_text("{", encoding="utf-8")
    with pytest.raises(ManifestError, match=r"manifest\.json"):
        make_plan(tmp_path / "tree", images)
    fill(make_plan(tmp_path / "tree", images, overwrite=True))
    assert Manifest.load(tmp_path / "tree").signature == SIGNATURE


def test_other_images_of_the_same_names_are_refused(tmp_path: Path, images: dict[Modality, Path]) -> None:
    fill(make_plan(tmp_path / "tree", images))
    other: dict[Modality, Path] = {"ir": tmp_path / "other"}
    write_image(other["ir"] / "z.png", np.full((12, 16, 3), 9, np.uint8))
    with pytest.raises(ManifestError, match=r"other.z\.png, another image; choose another `output_dir`"):
        make_plan(tmp_path / "tree", other)


def test_a_second_data_set_of_other_names_joins_the_tree(tmp_path: Path, images: dict[Modality, Path]) -> None:
    fill(make_plan(tmp_path / "tree", images))
    other: dict[Modality, Path] = {"ir": tmp_path / "other"}
    write_image(other["ir"] / "new.png", np.full((12, 16, 3), 9, np.uint8))
    fill(make_plan(tmp_path / "tree", other))
    manifest = Manifest.load(tmp_path / "tree")
    assert [sorted(source) for source in manifest.sources] == [["ir", "vi"], ["ir"]]
    assert manifest.counts == {"ir": 4, "vi": 3}
    assert make_plan(tmp_path / "tree", images).todo == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_bad_image_among_good_ones(tmp_path: Path, images: dict[Modality, Path], num_workers: int) -> None:
    root, bad = tmp_path / "tree", images["vi"] / "0.png"
    good = bad.read_bytes()
    bad.write_bytes(good[: len(good) // 2])

    summary = fill(make_plan(root, images), num_workers=num_workers)

    assert summary.written == 5
    ((job, reason),) = summary.failures.items()
    assert str(job) == "vi 0"
    assert str(bad) in reason
    assert "\n" not in reason
    (failure,) = Manifest.load(root).failures
    assert (failure["modality"], failure["name"], failure["reason"]) == ("vi", "0", reason)
    assert Path(failure["path"]) == bad

    bad.write_bytes(good)
    fill(make_plan(root, images))
    assert Manifest.load(root).failures == []


def test_earlier_failures_of_other_images_stay_listed(tmp_path: Path, images: dict[Modality, Path]) -> None:
    (images["ir"] / "0.png").write_bytes(b"no image")
    fill(make_plan(tmp_path / "tree", images))
    fill(make_plan(tmp_path / "tree", {"vi": images["vi"]}))
    assert [failure["modality"] for failure in Manifest.load(tmp_path / "tree").failures] == ["ir"]


@pytest.mark.parametrize(
    ("error", "reason"),
    [(ValueError("bad\nimage"), "ValueError: bad image"), (MemoryError(), "out of memory; use a smaller SAM")],
)
def test_an_image_on_which_the_generator_fails(
    tmp_path: Path, images: dict[Modality, Path], error: Exception, reason: str
) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise error

    summary = fill(make_plan(tmp_path / "tree", images), StubGenerator(fail))
    assert summary.written == 5
    assert next(iter(summary.failures.values())).startswith(reason)


def test_no_segment_found_gives_zeros(tmp_path: Path) -> None:
    folders: dict[Modality, Path] = {"ir": tmp_path / "ir"}
    write_image(folders["ir"] / "black.png", np.zeros((3, 1), np.uint8))

    class Nothing(StubGenerator):
        def generate(self, image: npt.NDArray[np.uint8], infrared: Any = None) -> Sequence[Segment]:
            return []

    summary = fill(make_plan(tmp_path / "tree", folders, save_instances=True), Nothing())
    assert (summary.written, summary.empty) == (1, 1)
    tree = MaskFiles(tmp_path / "tree")
    np.testing.assert_array_equal(tree.read("ir", "black", (3, 1)), np.zeros((3, 1), np.uint8))
    assert read_instances(tree.path("ir", "black", INSTANCES_SUFFIX), (3, 1)) == []


def test_instances_are_written_beside_and_asked_for_later(tmp_path: Path, images: dict[Modality, Path]) -> None:
    root = tmp_path / "tree"
    fill(make_plan(root, images))
    assert make_plan(root, images).todo == []
    plan = make_plan(root, images, save_instances=True)
    assert len(plan.todo) == 6
    fill(plan, num_workers=2)

    assert make_plan(root, images, save_instances=True).todo == []
    job = plan.jobs[0]
    image = read_for_sam(job.image, job.modality)
    records = read_instances(MaskFiles(plan.root).path(job.modality, job.name, INSTANCES_SUFFIX), image.shape[:2])
    masks = [record["mask"] for record in records]
    expected = sorted((image[..., 0] > level for level in (100, 200)), key=np.sum, reverse=True)
    np.testing.assert_array_equal(masks, expected)


@pytest.mark.parametrize("num_workers", [0, 1, 2, 4])
def test_an_interrupted_run_keeps_all_that_was_made(
    tmp_path: Path, images: dict[Modality, Path], num_workers: int
) -> None:
    def stop(number: int) -> None:
        if number == 4:
            raise KeyboardInterrupt

    plan, summary = make_plan(tmp_path / "tree", images), RunSummary()
    with pytest.raises(KeyboardInterrupt):
        precompute(plan, StubGenerator(stop), summary, num_workers=num_workers)

    assert summary.written == 3
    manifest = Manifest.load(tmp_path / "tree")
    assert sum(manifest.counts.values()) == 3
    assert partial_files(plan.root) == []
    rest = make_plan(tmp_path / "tree", images)
    assert rest.todo == plan.todo[3:]
    fill(rest)
    assert make_plan(tmp_path / "tree", images).todo == []


def test_the_manifest_is_there_from_the_start(tmp_path: Path, images: dict[Modality, Path]) -> None:
    def look(number: int) -> None:
        assert Manifest.load(tmp_path / "tree").signature == SIGNATURE

    assert fill(make_plan(tmp_path / "tree", images), StubGenerator(look)).failures == {}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_full_disk_stops_the_run_and_leaves_nothing_partial(
    tmp_path: Path, images: dict[Modality, Path], num_workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = make_plan(tmp_path / "tree", images)
    room = 3  # files: the manifest and two masks

    def fsync(descriptor: int) -> None:
        nonlocal room
        room -= 1
        if room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    generator, summary = StubGenerator(), RunSummary()
    with pytest.raises(OutputError, match=os.strerror(errno.ENOSPC)):
        precompute(plan, generator, summary, num_workers=num_workers)

    assert summary.written == 2
    assert partial_files(plan.root) == []
    monkeypatch.undo()
    assert len(make_plan(tmp_path / "tree", images).todo) == 4


def test_reading_ahead_is_bounded_and_beside_the_generator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders: dict[Modality, Path] = {"ir": tmp_path / "ir"}
    for index in range(12):
        write_image(folders["ir"] / f"{index:02d}.png", np.full((4, 4), 120, np.uint8))
    read = 0
    ahead: list[int] = []
    threads: set[int] = set()

    def counting_read(path: Path, how: InfraredReading) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_] | None]:
        nonlocal read
        read += 1
        threads.add(threading.get_ident())
        return read_infrared_and_missing(path, how)

    monkeypatch.setattr(mask_making, "read_infrared_and_missing", counting_read)
    fill(
        make_plan(tmp_path / "tree", folders),
        StubGenerator(lambda number: ahead.append(read - number)),
        num_workers=2,
    )
    assert max(ahead) <= 3
    assert threading.get_ident() not in threads
