"""The processes of a run: Fabric on what torchrun set up, or a single one."""

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

__all__ = ["any_of", "gather", "local_processes", "same_everywhere", "start_fabric"]

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
# Newer versions of torch name it otherwise.
_SYNC = "forward_sync_buffers"
_KNOWN = signature(DistributedDataParallel).parameters
_NO_BUFFERS: dict[str, Any] = {_SYNC if _SYNC in _KNOWN else "broadcast_buffers": False}

TIMEOUT = timedelta(minutes=10)
"""After which a rank that waits for another one gives up."""


def local_processes() -> int:
    """Return how many processes of this run are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def start_fabric(precision: Literal["32", "bf16", "fp16"]) -> Fabric:
    """Join the other processes: over gloo on CPUs, over NCCL on GPUs.

    Raises:
        TrainingError: there are fewer GPUs than processes, or the precision needs one.
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
            "starting: training.precision fp16 needs a GPU, and there is none. Use bf16 or 32."
        )
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)  # we say it ourselves
    if world % local:
        raise TrainingError(
            f"starting {world} processes: {local} of them are on this machine, and each machine "
            "needs as many as the others. Pass the same --nproc-per-node everywhere."
        )
    strategy: DDPStrategy | str = "auto"
    if world > 1:
        # The buffers are rank 0's wherever they matter: see `same_everywhere`.
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
    """Return the value of every rank, on every rank."""
    if not _several():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def any_of(flags: Iterable[bool], device: torch.device) -> list[bool]:
    """Return for each flag whether it is set on any rank."""
    flags = list(flags)
    if not _several():
        return flags
    votes = torch.tensor(flags, dtype=torch.int32, device=device)
    dist.all_reduce(votes, op=dist.ReduceOp.MAX)
    return [bool(vote) for vote in votes.tolist()]


def same_everywhere(tensors: Iterable[Tensor]) -> None:
    """Give every rank the tensors of rank 0.

    Weights are the same anyway. The running statistics of batch norms are not, since each rank sees
    its part of a batch; training doesn't use them, so that one rank's can count.
    """
    if _several():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)


def _several() -> bool:
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
