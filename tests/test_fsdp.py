"""Two processes train a sharded model; it ends with the weights of DistributedDataParallel."""

import copy
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from softattn import (
    SoftAttention,
    SoftAttentionBlock,
    capture_maps,
    insert_attention,
    wrap_backbone,
)
from softattn.attention import SoftAttentionNd
from softattn.insertion.residual import GatedBlock


def convolutions():
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2), nn.ReLU(), nn.Conv2d(6, 8, 3, stride=2), nn.ReLU()
    )


def with_block():
    model = nn.Sequential(*convolutions(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    return insert_attention(model, at="2", block=SoftAttention)


def inserted():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
    model = nn.Sequential(*convolutions(), *head)
    return insert_attention(model, at=["0", "2"], num_maps=4, gamma=0.5)


MODELS = {
    "wrapped": lambda: wrap_backbone(convolutions(), 3, num_maps=4, input_size=24),
    "block": lambda: wrap_backbone(convolutions(), 3, block=SoftAttentionBlock, input_size=24),
    "inserted": inserted,
    "inserted block": with_block,
}


def train(model, parallel, rank):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    torch.manual_seed(rank)
    for _ in range(3):
        optimizer.zero_grad()
        parallel(torch.randn(2, 3, 24, 24)).square().mean().backward()
        optimizer.step()
    state = model.state_dict()
    return {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in state.items()}


def train_in_two(rank, port, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    mesh = init_device_mesh("cpu", (2,))
    for name, build in MODELS.items():
        torch.manual_seed(0)
        model = build().eval()  # without dropout
        sharded = copy.deepcopy(model)
        expected = train(model, DistributedDataParallel(model), rank)
        for module in reversed(list(sharded.modules())):  # inner modules first
            if isinstance(module, SoftAttentionNd | GatedBlock):
                fully_shard(module, mesh=mesh)
        found = train(sharded, fully_shard(sharded, mesh=mesh), rank)
        with capture_maps(sharded) as maps:
            sharded(torch.randn(2, 3, 24, 24))
        torch.save((expected, found, {n: m.shape for n, m in maps.items()}), f"{path}/{name}{rank}")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    path = tmp_path_factory.mktemp("fsdp")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(train_in_two, (port, str(path)), nprocs=2)
    return path


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_sharded_training_ends_with_the_weights_of_ddp(trained, name, rank):
    expected, found, maps = torch.load(trained / f"{name}{rank}", weights_only=False)
    torch.manual_seed(0)
    start = MODELS[name]().state_dict()
    assert set(found) == set(expected) == set(start)
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], msg=key)
    trained_gammas = [key for key in start if key.endswith("gamma")]
    assert trained_gammas
    assert all((found[key] != start[key]).all() for key in trained_gammas)
    assert maps
