import pytest
import torch
from torch import nn

from ham10000.errors import RecipeError
from ham10000.models.authors import NETWORKS, output_shape


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_two_parts_is_the_network(name: str) -> None:
    network = NETWORKS[name]
    at = next(iter(network.stages))
    with torch.device("meta"):
        front = network.front(at).eval()
        x = front(torch.empty(1, 3, 64, 64))
        rest = network.rest(at, tuple(x.shape[1:]), 7, pooled=False).eval()
        assert rest(x).shape == (1, 7)
    names = [name for part in (front, rest) for name, _ in part.named_children()]
    assert names == [*network.stages, "classifier"]


def test_a_pooled_map_is_not_pooled_again() -> None:
    network = NETWORKS["vgg16"]
    with torch.device("meta"):
        for pooled, first in ((True, "block5"), (False, "pool4")):
            rest = network.rest("block4", (1024, 14, 14), 7, pooled=pooled)
            assert next(name for name, _ in rest.named_children()) == first
        # Only the pooling right after it: the stage before block3 isn't followed by one.
        rest = NETWORKS["resnet34"].rest("block1", (64, 56, 56), 7, pooled=True)
        assert [name for name, _ in rest.named_children()][:2] == ["block2", "pool2"]


def test_a_missing_stage() -> None:
    with pytest.raises(RecipeError, match=r"names no stage of it, found 'blok4'. Closest: bloc"):
        NETWORKS["vgg16"].front("blok4")


def test_shapes_are_found_without_computing() -> None:
    assert output_shape(lambda c: nn.MaxPool2d(4, ceil_mode=True), (512, 14, 14)) == (512, 4, 4)


def shape_at(name: str, stage: str) -> tuple[int, ...]:
    return output_shape(lambda _: NETWORKS[name].front(stage), (3, 224, 224))


def test_attention_is_where_the_paper_has_it() -> None:
    assert shape_at("vgg16", "block4") == (512, 28, 28)
    assert shape_at("resnet34", "block3") == (128, 28, 28)


def test_sixteen_and_thirty_four_layers() -> None:
    for name, layers in (("vgg16", 16), ("resnet34", 34)):
        network = NETWORKS[name]
        first = next(iter(network.stages))
        with torch.device("meta"):
            front = network.front(first)
            shape = tuple(front(torch.empty(1, 3, 224, 224)).shape[1:])
            rest = network.rest(first, shape, 7, pooled=False)
        weights = [
            key
            for part in (front, rest)
            for key, value in part.named_parameters()
            # A convolution beside a block isn't counted, as in the names of residual networks.
            if value.ndim > 1 and ".skip." not in key
        ]
        assert len(weights) == layers


def test_the_dense_layers_of_vgg16() -> None:
    with torch.device("meta"):
        rest = NETWORKS["vgg16"].rest("block4", (1024, 14, 14), 7, pooled=True)
    shapes = [tuple(p.shape) for p in rest.get_submodule("classifier").parameters() if p.ndim == 2]
    assert shapes == [(4096, 512 * 4 * 4), (4096, 4096), (7, 4096)]
