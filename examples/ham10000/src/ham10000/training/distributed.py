"""The processes of a run: start Fabric, and collective operations on any number of ranks."""

import logging
import os
from collections.abc import Iterable
from datetime import timedelta
from inspect import signature
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning_fabric import Fabric
from lightning_fabric.strategies.ddp import DDPStrategy
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from ham10000.errors import TrainingError

__all__ = ["any_of", "broadcast_all", "gather", "local_processes", "start_fabric"]

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
# Newer versions of torch renamed broadcast_buffers.
_SYNC = "forward_sync_buffers"
_KNOWN = signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {_SYNC if _SYNC in _KNOWN else "broadcast_buffers": False}

TIMEOUT = timedelta(minutes=10)
"""Time after which a rank that waits for another one raises an error."""


def local_processes() -> int:
    """Return the number of processes of this run on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def start_fabric(precision: Literal["32", "bf16", "fp16"]) -> Fabric:
    """Join the other processes of the run, with gloo on CPUs and NCCL on GPUs.

    Raises:
        TrainingError: there are fewer GPUs than processes, or fp16 was requested on a CPU.
    """
    local, world = local_processes(), int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = torch.cuda.is_available()
    if on_gpu and local > torch.cuda.device_count():
        raise TrainingError(
            f"starting {local} processes: this machine has {torch.cuda.device_count()} GPUs, and "
            "each process needs one. Start fewer, or set CUDA_VISIBLE_DEVICES= to use the CPU."
        )
    if precision == "fp16" and not on_gpu:
        raise TrainingError(
            "starting: training.precision fp16 needs a GPU, and none was found. Use bf16 or 32."
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # its messages repeat ours
    if world % local:
        raise TrainingError(
            f"starting {world} processes: {local} of them are on this machine, and every machine "
            "must have the same number. Pass the same --nproc-per-node on all machines."
        )
    strategy: DDPStrategy | str = "auto"
    if world > 1:
        # Buffers are broadcast only where they matter: see `broadcast_all`.
        strategy = DDPStrategy(
            process_group_backend="nccl" if on_gpu else "gloo",
            timeout=TIMEOUT,
            gradient_as_bucket_view=True,
            **_NO_BUFFERS,
        )
    fabric = Fabric(
        accelerator="cuda" if on_gpu else "cpu",
        devices=local,
        num_nodes=max(1, world // local),
        strategy=strategy,
        precision=_PRECISION[precision],  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric


def gather(value: Any) -> list[Any]:
    """Return the values of all ranks, on every rank."""
    if not _is_distributed():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def any_of(flags: Iterable[bool], device: torch.device) -> list[bool]:
    """Return for each flag whether it is set on at least one rank."""
    flags = list(flags)
    if not _is_distributed():
        return flags
    votes = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes.tolist()]


def broadcast_all(tensors: Iterable[Tensor]) -> None:
    """Copy tensors of rank 0 to all ranks.

    Weights are equal on all ranks. Running statistics of batch norms are not, because each rank
    sees its part of a batch. Training does not use them, so those of rank 0 can be taken.
    """
    if _is_distributed():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def _is_distributed() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
