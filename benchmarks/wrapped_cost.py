"""Cost of attention in training: wrapped and bare models, timed alternately in one run.

    python benchmarks/wrapped_cost.py [--device cuda] [--models resnet50 convnext_tiny]

A step is forward, backward and SGD. Steps of both models alternate, so that other load affects
both. The ratio is that of the medians of the CPU time of the process (use one thread:
OMP_NUM_THREADS=1). Operations are counted, so they do not depend on the machine. Peak memory is
that of the device on CUDA, and the profiler's count on the CPU.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from softattn import wrap_backbone


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", nargs="+", default=["resnet50", "convnext_tiny"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--classes", type=int, default=7)
    args = parser.parse_args()
    print(f"torch {torch.__version__}, {args.device}, batch {args.batch}, {args.size} pixels")
    print("model | bare ms | wrapped ms | ratio | operations | bare MiB | wrapped MiB | more MiB")
    for name in args.models:
        torch.manual_seed(0)
        images = torch.randn(args.batch, 3, args.size, args.size, device=args.device)
        labels = torch.randint(args.classes, (args.batch,), device=args.device)
        bare = timm.create_model(name, num_classes=args.classes).to(args.device)
        wrapped = wrap_backbone(f"timm:{name}", args.classes).to(args.device)
        steps = [step(model, images, labels) for model in (bare, wrapped)]
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(args.steps + 2):
            for side in (0, 1) if turn % 2 else (1, 0):
                seconds = timed(steps[side], args.device)
                if turn >= 2:
                    times[side].append(seconds)
        first, second = map(statistics.median, times)
        operations = [count_operations(model, images) for model in (bare, wrapped)]
        memory = [peak_memory(run, args.device) for run in steps]
        print(
            f"{name} | {1000 * first:.1f} | {1000 * second:.1f} | {second / first:.4f} "
            f"| {operations[1] / operations[0]:.4f} "
            f"| {memory[0]:.1f} | {memory[1]:.1f} | {memory[1] - memory[0]:.1f}"
        )


def step(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], None]:
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    model.train()

    def run() -> None:
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return run


def count_operations(model: nn.Module, images: torch.Tensor) -> int:
    counter = FlopCounterMode(display=False)
    with counter:
        model(images).sum().backward()
    model.zero_grad()
    return counter.get_total_flops()


def timed(run: Callable[[], None], device: str) -> float:
    if device != "cuda":
        # CPU time of this process, which excludes other load.
        start = time.process_time()
        run()
        return time.process_time() - start
    torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_memory(run: Callable[[], None], device: str) -> float:
    """Return the peak memory of a step relative to its start, in MiB."""
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        run()
    held = most = 0
    events = profile.profiler.kineto_results.events()
    for event in sorted(events, key=lambda event: event.start_ns()):
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most / 2**20


if __name__ == "__main__":
    main()
