"""Making masks in several processes: of one machine, on a local Ray cluster, and of several commands at once."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from thfuse_sam.errors import WorkerError
from thfuse_sam.images import Modality, write_image
from thfuse_sam.masks.manifest import Manifest
from thfuse_sam.precompute import processes
from thfuse_sam.precompute.jobs import JobSettings, take_part
from thfuse_sam.precompute.plan import Plan, plan_precompute
from thfuse_sam.precompute.processes import WorkerSettings, make_in_processes
from thfuse_sam.precompute.ray import RaySettings, make_on_ray
from thfuse_sam.precompute.writing import RunSummary, write_masks

from .conftest import jobs_of

pytestmark = pytest.mark.usefixtures("stub_masks")


def make_plan(root: Path, folders: dict[Modality, Path], options: JobSettings | None = None) -> Plan:
    from stub_masks import SIGNATURE

    return plan_precompute(root, jobs_of(folders), folders, SIGNATURE, options=options)


def masks_in(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.npy")}


@pytest.fixture
def expected(tmp_path: Path, images: dict[Modality, Path]) -> dict[str, bytes]:
    """The masks that one process makes."""
    from stub_masks import Stub, precompute

    precompute(make_plan(tmp_path / "single", images), Stub(), RunSummary())
    found = masks_in(tmp_path / "single")
    assert len(found) == 20
    return found


def test_parts_divide_the_images(images: dict[Modality, Path]) -> None:
    jobs = jobs_of(images)
    parts = [take_part(jobs, part, 4) for part in range(1, 5)]
    assert sorted((job for part in parts for job in part), key=str) == sorted(jobs, key=str)
    for part in parts:
        assert {job.name for job in part if job.modality == "ir"} == {job.name for job in part if job.modality == "vi"}
    assert [len(part) for part in parts] == [6, 6, 4, 4]
    assert parts == [take_part(list(reversed(jobs))[::-1], part, 4) for part in range(1, 5)]


def test_processes_make_the_same_masks(
    tmp_path: Path, images: dict[Modality, Path], expected: dict[str, bytes]
) -> None:
    from stub_masks import make_stub

    (images["ir"] / "bad.png").write_bytes(b"broken")
    plan, summary = make_plan(tmp_path / "tree", images), RunSummary()
    results = make_in_processes(plan.todo, WorkerSettings(make_stub, plan.options), ["cpu", "cpu"])
    write_masks(plan, results, summary, num_workers=2)
    assert masks_in(plan.root) == expected
    assert (summary.written, [str(job) for job in summary.failures]) == (20, ["ir bad"])


def test_a_device_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, claim = processes._claim_device(("cpu",), tmp_path)
    monkeypatch.setattr(processes.time, "sleep", lambda seconds: claim.release())
    device, again = processes._claim_device(("cpu",), tmp_path)
    assert device == "cpu"
    again.release()


@pytest.mark.slow
def test_a_killed_process_costs_nothing_but_time(
    tmp_path: Path, images: dict[Modality, Path], expected: dict[str, bytes]
) -> None:
    from stub_masks import make_dying

    plan, summary = make_plan(tmp_path / "tree", images), RunSummary()
    spec = WorkerSettings(functools.partial(make_dying, tmp_path / "killed", 3), plan.options)
    write_masks(plan, make_in_processes(plan.todo, spec, ["cpu", "cpu"]), summary)
    assert (tmp_path / "killed").exists()
    assert masks_in(plan.root) == expected
    assert summary.failures == {}


@pytest.mark.slow
def test_an_image_that_kills_its_process_fails_alone(
    tmp_path: Path, images: dict[Modality, Path], expected: dict[str, bytes]
) -> None:
    from stub_masks import make_dying

    (tmp_path / "killed").touch()
    write_image(images["vi"] / "bad.png", np.full((12, 16, 3), 13, np.uint8))
    plan, summary = make_plan(tmp_path / "tree", images), RunSummary()
    spec = WorkerSettings(functools.partial(make_dying, tmp_path / "killed", 0), plan.options)
    write_masks(plan, make_in_processes(plan.todo, spec, ["cpu", "cpu"]), summary)
    assert masks_in(plan.root) == expected
    assert [str(job) for job in summary.failures] == ["vi bad"]
    assert "died" in next(iter(summary.failures.values()))


@pytest.mark.slow
def test_processes_that_die_at_their_start_end_the_run(tmp_path: Path, images: dict[Modality, Path]) -> None:
    from stub_masks import make_dead

    plan = make_plan(tmp_path / "tree", images)
    with pytest.raises(WorkerError, match="use fewer processes"):
        write_masks(
            plan, make_in_processes(plan.todo, WorkerSettings(make_dead, plan.options), ["cpu"] * 2), RunSummary()
        )


# Importing is the slow part, so one process does it and forks into the two.
TWO_COMMANDS = """
import os, sys
from pathlib import Path
import stub_masks
from thfuse_sam.precompute.jobs import list_jobs, take_part
from thfuse_sam.precompute.plan import plan_precompute
from thfuse_sam.precompute.writing import RunSummary

root, data, parts = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
folders = {modality: data / modality for modality in ("ir", "vi")}
jobs = list_jobs({key: {path.stem: path for path in folder.iterdir()} for key, folder in folders.items()})
waiting, go = os.pipe()
children = []
for part in (1, 2):
    child = os.fork()
    if child == 0:
        try:
            plan = plan_precompute(root, take_part(jobs, min(part, parts), parts), folders, stub_masks.SIGNATURE)
            os.close(go)
            os.read(waiting, 1)  # until both have planned
            summary = RunSummary()
            stub_masks.precompute(plan, stub_masks.Stub(), summary, num_workers=2)
            os.write(1, f"{summary.written} {len(summary.failures)};".encode())
        finally:
            os._exit(0)
    children.append(child)
os.close(go)
for child in children:
    os.waitpid(child, 0)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no fork")
@pytest.mark.parametrize("parts", [1, 2])
def test_two_commands_on_one_tree_at_once(
    tmp_path: Path, images: dict[Modality, Path], expected: dict[str, bytes], parts: int
) -> None:
    """Both do all images, or each its half; both plan before either has written anything."""
    for name in ("bad1", "bad2"):  # with 12 names, one in each half
        (images["ir"] / f"{name}.png").write_bytes(b"broken")
    command = [sys.executable, "-c", TWO_COMMANDS, str(tmp_path / "tree"), str(tmp_path), str(parts)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    assert done.stdout == ("20 2;" if parts == 1 else "10 1;") * 2
    assert masks_in(tmp_path / "tree") == expected
    manifest = Manifest.load(tmp_path / "tree")
    assert manifest.counts == {"ir": 10, "vi": 10}
    assert sorted(entry["name"] for entry in manifest.failures) == ["bad1", "bad2"]
    assert len(manifest.sources) == 1


# Ray


def fill_on_ray(plan: Plan, spec: WorkerSettings, **options: object) -> RunSummary:
    pytest.importorskip("ray", reason="Ray is not installed; pip install 'th-fuse-sam[ray]'")
    summary = RunSummary()
    ray_options = RaySettings(workers=2, use_gpu=False, **options)  # type: ignore[arg-type]
    write_masks(plan, make_on_ray(plan.todo, spec, ray_options), summary, num_workers=1)
    return summary


@pytest.mark.slow
def test_a_killed_ray_worker_costs_nothing_but_time(
    tmp_path: Path, images: dict[Modality, Path], expected: dict[str, bytes]
) -> None:
    from stub_masks import make_dying

    plan = make_plan(tmp_path / "tree", images)
    spec = WorkerSettings(functools.partial(make_dying, tmp_path / "killed", 3), plan.options)
    summary = fill_on_ray(plan, spec, cores=2)
    assert (tmp_path / "killed").exists()
    assert masks_in(plan.root) == expected
    assert (summary.written, summary.failures) == (20, {})


@pytest.mark.slow
def test_a_lost_ray_head_is_one_line(tmp_path: Path, images: dict[Modality, Path]) -> None:
    from stub_masks import make_head_killer

    plan = make_plan(tmp_path / "tree", images)
    spec = WorkerSettings(functools.partial(make_head_killer, tmp_path / "killed"), plan.options)
    with pytest.raises(WorkerError, match="lost the Ray cluster") as caught:
        fill_on_ray(plan, spec, cores=2, timeout_s=3)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "killed").exists()
    done = len(masks_in(plan.root))
    assert sum(Manifest.load(plan.root).counts.values()) == done < 20


@pytest.mark.slow
def test_no_ray_cluster_at_the_address(tmp_path: Path, images: dict[Modality, Path]) -> None:
    from stub_masks import make_stub

    plan = make_plan(tmp_path / "tree", images)
    with pytest.raises(WorkerError, match=r"`ray_address` auto: no Ray cluster answers"):
        fill_on_ray(plan, WorkerSettings(make_stub, plan.options), address="auto")
