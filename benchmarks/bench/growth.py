"""Scaling of the layer with the feature map, the number of maps, and the processes."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from bench.harness import Row, Work, compare, take_turns
from bench.layer import Forward, with_backward
from bench.others import Conv3dAttention, bare
from softattn import SoftAttention

START = {"batch": 8, "channels": 256, "side": 14, "maps": 16}
STEPS = {"batch": (1, 4, 16, 64), "channels": (64, 256, 1024, 2048),
         "side": (7, 14, 28, 56), "maps": (1, 4, 16, 64)}  # fmt: skip


def growth(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time forward and backward over batch, channels, resolution and maps."""
    for axis, values in STEPS.items():
        for value in values[:2] if quick else values:
            at = {**START, axis: value}
            x = torch.randn(at["batch"], at["channels"], at["side"], at["side"])
            x.requires_grad_()
            ours = SoftAttention(at["channels"], at["maps"])
            conv3d = Conv3dAttention(at["channels"], at["maps"])
            forward: dict[str, Forward] = {
                "bare convolution": lambda x=x, m=ours: bare(x, m.weight, m.bias),
                "softattn": lambda x=x, m=ours: m(x),
                "Conv3d form": lambda x=x, m=conv3d: m(x),
            }
            both = {side: with_backward(run, x) for side, run in forward.items()}
            times = take_turns(both, rounds, threads, most=2)
            yield compare(f"growth with {axis}", str(value), times, "bare convolution")


def processes(quick: bool, rounds: int, threads: int) -> Iterator[list[Row]]:
    """Time a step of one and more single-threaded processes, with gradients averaged by gloo.

    Each process has a batch of the same size, so with perfect scaling all steps take equally long.
    """
    del quick, threads
    most = max(2, min(4, torch.multiprocessing.cpu_count()))
    for count in range(1, most + 1):
        with tempfile.TemporaryDirectory() as folder:
            torch.multiprocessing.spawn(_rank, (count, rounds, folder), nprocs=count)
            times = torch.load(Path(folder) / "times.pt")
        yield compare("growth with processes", str(count), times, "bare convolution")


def _rank(rank: int, count: int, rounds: int, folder: str) -> None:
    """Run one of the processes; the first writes its times."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/ranks", rank=rank, world_size=count
    )
    channels, side = START["channels"], START["side"]
    x = torch.randn(START["batch"], channels, side, side, requires_grad=True)
    modules = {
        "bare convolution": nn.Conv2d(channels, START["maps"], 3, padding=1),
        "softattn": SoftAttention(channels, START["maps"]),
    }
    works = {name: _step(DistributedDataParallel(module), x) for name, module in modules.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for turn in range(rounds + 1):
        for name, work in works.items():
            dist.barrier()
            before = time.perf_counter()
            for _ in range(20):
                work()
            wall = (time.perf_counter() - before) / 20
            if turn:  # the first warms up
                times[name].append((wall, wall))
    if rank == 0:
        torch.save(times, Path(folder) / "times.pt")
    dist.destroy_process_group()


def _step(module: nn.Module, x: torch.Tensor) -> Work:
    incoming = torch.randn_like(module(x))

    def work() -> None:
        module(x).backward(incoming)
        x.grad = None

    return work
