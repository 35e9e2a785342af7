"""Train every wrapped model in two gloo processes; used by families.py.

Each process takes three steps with different images. The parameters are equal afterwards only if
every gradient was averaged.
"""

import json
import socket
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from family_checks import choose_size, said
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from softattn import SoftAttentionClassifier, wrap_backbone
from softattn.models import load_model

__all__ = ["DDP", "train_in_two"]

DDP = "DDP"
WORST = ("no", "-", "yes")


def train_in_two(names: list[str], path: Path) -> None:
    """Train each model, and append the results to a JSON lines file."""
    if not names:
        return
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_train_all, (port, names, path), nprocs=2)


def _train_all(rank: int, port: int, names: list[str], path: Path) -> None:
    torch.set_num_threads(1)
    store = f"tcp://127.0.0.1:{port}"
    waits = timedelta(minutes=5)
    dist.init_process_group("gloo", store, world_size=2, rank=rank, timeout=waits)
    for name in names:
        try:
            result = _train(name, rank)
        except Exception as error:
            result = f"no: {said(error)}"
        found: list[str | None] = [None, None]
        dist.all_gather_object(found, result)
        if rank == 0:
            # The worse result of the two processes.
            result = min(map(str, found), key=lambda text: WORST.index(text.split(":")[0]))
            with path.open("a") as lines:
                lines.write(json.dumps({"model": name, DDP: result}) + "\n")
            print(f"{name}: {result}", flush=True)
    dist.destroy_process_group()


def _train(name: str, rank: int) -> str:
    kwargs, size = choose_size(name, small=True)
    torch.manual_seed(0)
    model = wrap_backbone(name, 2, num_maps=4, input_size=size, **kwargs)
    # Not copies: the largest model fills the memory as it is.
    before = {name: p.detach().double().norm() for name, p in model.named_parameters()}
    torch.manual_seed(rank)
    x = torch.randn(2, *model.backbone.feature_map.input_size)
    try:
        without = _steps(model, x)
    except Exception as error:
        try:
            load_model(name, kwargs=kwargs).model.train()(x).square().mean().backward()
        except Exception as own:
            if type(own) is type(error):
                return f"-: {said(own)}"
        return f"no: {said(error)}"
    unequal = [n for n, p in model.named_parameters() if not torch.equal(p, _of_first(p))]
    if unequal:
        return f"no: {unequal[0]} differs"
    if without:
        return f"no: {without[0]} had no gradient"
    now = {name: p.detach().double().norm() for name, p in model.named_parameters()}
    return "no: nothing has changed" if now == before else "yes"


def _steps(model: SoftAttentionClassifier, x: Tensor) -> list[str]:
    """Train, and return the names of trainable parameters that got no gradient."""
    parallel = DistributedDataParallel(model.train(), gradient_as_bucket_view=True)
    optimizer = torch.optim.SGD(model.param_groups(lr=1e-3))
    without = []
    for step in range(3):
        optimizer.zero_grad()
        F.cross_entropy(parallel(x), torch.tensor([0, 1])).backward()
        optimizer.step()
        if step == 0:
            named = model.named_parameters()
            without = [n for n, p in named if p.requires_grad and p.grad is None]
    return without


def _of_first(parameter: Tensor) -> Tensor:
    """Return the value of a parameter in the first process."""
    value = parameter.detach().clone()
    dist.broadcast(value, 0)
    return value
