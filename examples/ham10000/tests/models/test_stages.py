import pytest
import torch
from torch import nn

from ham10000.errors import RecipeError
from ham10000.models.networks import NETWORKS
from ham10000.models.stages import output_shape


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


def test_a_stage_that_is_not_there() -> None:
    with pytest.raises(RecipeError, match=r"no stage 'blok4', as model.at asks for. Closest: bloc"):
        NETWORKS["vgg16"].front("blok4")


def test_shapes_are_found_without_computing() -> None:
    assert output_shape(lambda c: nn.MaxPool2d(4, ceil_mode=True), (512, 14, 14)) == (512, 4, 4)
