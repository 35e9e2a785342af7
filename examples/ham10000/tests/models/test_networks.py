import pytest
import torch
from softattn import capture_maps
from torch import nn

from ham10000.errors import RecipeError
from ham10000.models.networks import NETWORKS, MaxHead, ProbeHead, output_shape


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


def probe_reference(head: ProbeHead, x: torch.Tensor) -> torch.Tensor:
    """The equation of the article, one query and one position at a time, in float64."""
    queries, values = head.queries.double(), head.values.weight.double()
    count, width = len(queries), x.shape[1] // len(queries)
    scores = []
    for image in x.double():
        positions = [image[:, i, j] for i in range(x.shape[2]) for j in range(x.shape[3])]
        parts = []
        for m in range(count):
            exponentials = [torch.exp(queries[m] @ position) for position in positions]
            total = sum(exponentials)
            part = torch.zeros(width, dtype=torch.float64)
            for weight, position in zip(exponentials, positions, strict=True):
                part += weight / total * (values @ position)[m * width : (m + 1) * width]
            parts.append(part)
        scores.append(head.fc.weight.double() @ torch.cat(parts) + head.fc.bias.double())
    return torch.stack(scores)


@pytest.mark.parametrize("queries", [1, 3, 12])
def test_probe_equals_its_equation(queries: int) -> None:
    torch.manual_seed(0)
    head = ProbeHead(12, 7, queries)
    nn.init.normal_(head.queries)
    x = torch.randn(2, 12, 3, 2)
    torch.testing.assert_close(head(x).double(), probe_reference(head, x), rtol=1e-5, atol=1e-5)


def test_probe_starts_with_uniform_maps() -> None:
    head, x = ProbeHead(8, 7, 4), torch.randn(3, 8, 2, 5)
    with capture_maps(head) as maps:
        scores = head(x)
    assert maps[""].shape == (3, 4, 2, 5)
    torch.testing.assert_close(maps[""], torch.full((3, 4, 2, 5), 0.1))
    torch.testing.assert_close(scores, head.fc(head.values(x.mean((2, 3)))))


def test_every_parameter_of_the_probe_learns() -> None:
    torch.manual_seed(0)
    head = ProbeHead(8, 7, 4)
    head(torch.randn(3, 8, 2, 2))[:, 0].sum().backward()
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.abs().sum() > 0, name


def test_queries_that_do_not_divide_the_channels() -> None:
    with pytest.raises(RecipeError, match=r"10 channels .*num_queries 4\. .* divisor of 10"):
        ProbeHead(10, 7, 4)


def test_max_head() -> None:
    head = MaxHead(5, 7)
    x = torch.randn(2, 5, 3, 4)
    largest = torch.tensor([[x[b, c].max() for c in range(5)] for b in range(2)])
    torch.testing.assert_close(head(x), largest @ head[-1].weight.T + head[-1].bias)


@pytest.mark.parametrize("head", [MaxHead(4, 7, drop_rate=0.5), ProbeHead(4, 7, 2, drop_rate=0.5)])
def test_dropout_acts_only_in_training(head: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, 3)
    assert not torch.equal(head(x), head(x))
    head.eval()
    assert torch.equal(head(x), head(x))
