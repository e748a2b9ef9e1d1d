"""The processes of a run: a single one, or those that `torchrun` started, which train with the mean of their gradients.

Everything that depends on their number is asked here; `lightning_fabric` does the work between them.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import lightning_fabric
import torch
from lightning_fabric.strategies import DDPStrategy

from thfuse_sam.options.shared import Precision

_FABRIC_PRECISION: dict[Precision, Literal["32-true", "16-mixed", "bf16-mixed"]] = {
    "fp32": "32-true",
    "fp16": "16-mixed",
    "bf16": "bf16-mixed",
}


@dataclass(frozen=True)
class Processes:
    """This process among those of a run."""

    rank: int = 0  # number among all processes; the process of rank 0 writes the files
    local_rank: int = 0  # number among the processes on this machine
    count: int = 1
    local_count: int = 1  # processes on this machine

    @property
    def is_main(self) -> bool:
        return self.rank == 0


def run_processes() -> Processes:
    """What `torchrun` says of this process in its environment; without it, that it is the only one."""
    if "LOCAL_RANK" not in os.environ:
        return Processes()
    rank, local_rank = (int(os.environ.get(name, "0")) for name in ("RANK", "LOCAL_RANK"))
    count, local_count = (int(os.environ.get(name, "1")) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"))
    return Processes(rank, local_rank, count, local_count)


def own_device(device: torch.device) -> torch.device:
    """The device of this process: of several processes on a machine with GPUs, each has a GPU of its own."""
    processes = run_processes()
    if device.type != "cuda" or processes.count == 1:
        return device
    return torch.device("cuda", processes.local_rank)


def make_fabric(device: torch.device, precision: Precision = "fp32") -> lightning_fabric.Fabric:
    """Fabric for the processes of the run, one device each; "fp16" and "bf16" compute in mixed precision.

    Gradients are averaged over the processes: by NCCL between CUDA devices, by gloo between CPUs.
    """
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its hints are for those who write programs
    processes = run_processes()
    if processes.count == 1:
        devices = [device.index or 0] if device.type == "cuda" else 1
        return lightning_fabric.Fabric(accelerator=device.type, devices=devices, precision=_FABRIC_PRECISION[precision])
    fabric = lightning_fabric.Fabric(
        accelerator=device.type,
        devices=processes.local_count,
        num_nodes=processes.count // processes.local_count,
        # Some weights have no part in a step: those for boxes where all prompts are points.
        strategy=DDPStrategy(
            find_unused_parameters=True, process_group_backend="nccl" if device.type == "cuda" else "gloo"
        ),
        precision=_FABRIC_PRECISION[precision],
    )
    fabric.launch()
    return fabric


def sums_over_processes(fabric: lightning_fabric.Fabric, values: Sequence[float]) -> list[float]:
    """Each value, summed over the processes."""
    if fabric.world_size == 1:
        return list(values)
    totals = fabric.all_reduce(torch.tensor(values, dtype=torch.float64, device=fabric.device), reduce_op="sum")
    assert isinstance(totals, torch.Tensor)  # all_reduce keeps the type of its argument
    return [float(total) for total in totals.tolist()]


def any_process(fabric: lightning_fabric.Fabric, flag: bool) -> bool:
    """Whether `flag` is set in any of the processes; the answer is the same in all of them."""
    if fabric.world_size == 1:
        return flag
    largest = fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="max")
    return bool(largest > 0)  # type: ignore[operator]  # all_reduce keeps the type of its argument
