"""The fusions of image and metadata, against their equations, and in a model."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from building import build_classifier
from torch import Tensor, nn

from ham10000.errors import ArgumentError, RecipeError
from ham10000.models.fusion import ConcatFusion, Fusion, LateFusion, MetaBlock, MetaNet
from ham10000.recipe import AttentionRecipe, ModelRecipe, load_recipe

KINDS = ("late", "concat", "metanet", "metablock")
ON_MAP = ("metanet", "metablock")
MAKE: dict[str, Callable[[], Fusion]] = {
    "late": lambda: LateFusion(3, num_classes=2, width=4, drop_rate=0.0),
    "concat": lambda: ConcatFusion(3, 5, num_classes=2, width=4, joint_width=6, drop_rate=0.0),
    "metanet": lambda: MetaNet(3, in_channels=5, width=4),
    "metablock": lambda: MetaBlock(3, in_channels=5),
}
SHAPE = {"late": (4, 2), "concat": (4, 5), "metanet": (4, 5, 2, 3), "metablock": (4, 5, 2, 3)}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def made(kind: str) -> tuple[Fusion, Tensor, Tensor]:
    """A fusion in float64 with random weights and statistics, and its inputs."""
    torch.manual_seed(0)
    fusion = MAKE[kind]().double()
    with torch.no_grad():
        for name, value in fusion.state_dict().items():
            if value.is_floating_point():
                positive = name.endswith("running_var")
                value.copy_(torch.rand_like(value) + 0.5 if positive else torch.randn_like(value))
    return fusion, torch.randn(SHAPE[kind]).double(), torch.rand(4, 3).double()


Vector = list[float]


def linear(layer: Any, x: Vector) -> Vector:
    rows = zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
    return [sum(w * v for w, v in zip(row, x, strict=True)) + bias for row, bias in rows]


def norm(layer: Any, x: Vector) -> Vector:
    columns = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    return [
        (value - mean) / math.sqrt(variance + layer.eps) * scale + shift
        for value, mean, variance, scale, shift in zip(
            x, *(column.tolist() for column in columns), strict=True
        )
    ]


def relu(x: Vector) -> Vector:
    return [max(value, 0.0) for value in x]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def hidden(layers: Any, x: Vector) -> Vector:
    return relu(norm(layers[1], linear(layers[0], x)))


def late(fusion: Any, x: Vector, metadata: Vector) -> Vector:
    added = linear(fusion[3], relu(linear(fusion[0], metadata)))
    return [one + other for one, other in zip(x, added, strict=True)]


def concat(fusion: Any, x: Vector, metadata: Vector) -> Vector:
    encoded = hidden(fusion.encoder[1], hidden(fusion.encoder[0], metadata))
    return linear(fusion.fc, hidden(fusion.joint, [*x, *encoded]))


def metanet(fusion: Any, x: list[list[Vector]], metadata: Vector) -> list[list[Vector]]:
    factors = linear(fusion.fc2, relu(linear(fusion.fc1, metadata)))
    return [
        [[value * sigmoid(factors[channel]) for value in row] for row in map_]
        for channel, map_ in enumerate(x)
    ]


def metablock(fusion: Any, x: list[list[Vector]], metadata: Vector) -> list[list[Vector]]:
    f = norm(fusion.scale[1], linear(fusion.scale[0], metadata))
    g = norm(fusion.shift[1], linear(fusion.shift[0], metadata))
    return [
        [[sigmoid(math.tanh(value * f[channel]) + g[channel]) for value in row] for row in map_]
        for channel, map_ in enumerate(x)
    ]


REFERENCES = {"late": late, "concat": concat, "metanet": metanet, "metablock": metablock}


def test_it_is_the_equation(kind: str) -> None:
    fusion, x, metadata = made(kind)
    found = fusion.eval()(x, metadata)
    reference: Callable[..., Any] = REFERENCES[kind]
    rows = zip(x.tolist(), metadata.tolist(), strict=True)
    expected = torch.tensor([reference(fusion, *row) for row in rows], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False])
def test_gradients_are_those_of_finite_differences(kind: str, training: bool) -> None:
    fusion, x, metadata = made(kind)
    fusion.train(training)
    x.requires_grad_()
    metadata.requires_grad_()
    assert torch.autograd.gradcheck(fusion, (x, metadata))


def classifier(kind: str, **others: Any) -> Any:
    torch.manual_seed(0)
    model = ModelRecipe("ham10000:tiny", fusion=kind, **others)  # type: ignore[arg-type]
    attention = AttentionRecipe("soft", "paper", drop_rate=0.0)
    return build_classifier(model, attention=attention, size=32, metadata=True)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(3, 3, 32, 32, generator=generator),
        torch.rand(3, 18, generator=generator),
    )


Inputs = tuple[Tensor, Tensor]


@pytest.mark.parametrize("kind", ON_MAP)
def test_a_map_is_changed_before_the_attention(kind: str, inputs: Inputs) -> None:
    model = classifier(kind).eval()
    images, metadata = inputs
    changed = model.metadata(model.network.backbone(images), metadata)
    features, maps = model.network.attention(changed, return_maps=True)
    scores, found = model(images, metadata, return_maps=True)
    assert torch.equal(scores, model.network.head(features))
    assert torch.equal(found, maps)
    assert torch.equal(model.forward_features(images, metadata), features)
    assert not torch.equal(found, model.network.attention(model.network.backbone(images), True)[1])


@pytest.mark.parametrize("head", ["pool", "max", "flatten", "probe", "rest"])
def test_what_every_head_classifies_is_concatenated(head: str, inputs: Inputs) -> None:
    others = {"num_queries": 8, "at": "block2" if head == "rest" else None}
    model = classifier("concat", head=head, **others).eval()
    images, metadata = inputs
    assert not any(p.shape[0] == 7 for p in model.network.parameters())
    hidden = model.network(images)
    assert hidden.shape == (3, model.network.head_hidden_size)
    assert torch.equal(model(images, metadata), model.metadata(hidden, metadata))


@pytest.mark.parametrize("layer", ["none", "soft"])
def test_metadata_changes_the_scores(kind: str, layer: str, inputs: Inputs) -> None:
    images, metadata = inputs
    torch.manual_seed(0)
    attention = AttentionRecipe(layer)  # type: ignore[arg-type]
    recipe = ModelRecipe("ham10000:tiny", fusion=kind)  # type: ignore[arg-type]
    model = build_classifier(recipe, attention=attention, size=32, metadata=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(*inputs), torch.tensor([0, 1, 2])).backward()
        assert all(p.grad is not None for p in model.parameters())  # for DDP
        optimizer.step()
    model.eval()
    scores = model(images, metadata)
    assert scores.isfinite().all()
    assert not torch.equal(scores, model(images, metadata.flip(0)))


def test_metadata_must_be_given(kind: str, inputs: Inputs) -> None:
    with pytest.raises(ArgumentError, match="built with metadata and called without"):
        classifier(kind)(inputs[0])


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_groups_hold_every_parameter_once(kind: str, weight_decay: float) -> None:
    model = classifier(kind)
    groups = model.param_groups(0.1, head_lr_scale=10, weight_decay=weight_decay, layer_decay=0.5)
    held = [p for group in groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert len(held) == len(list(model.parameters()))
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    for parameter in model.metadata.parameters():
        assert rates[id(parameter)] == (1.0, weight_decay if parameter.ndim > 1 else 0.0)


def test_copies_and_loaded_weights_compute_the_same(kind: str, inputs: Inputs) -> None:
    model = classifier(kind).eval()
    fresh = classifier(kind).eval()
    for parameter in fresh.parameters():
        nn.init.zeros_(parameter)
    fresh.load_state_dict(model.state_dict())
    for other in (copy.deepcopy(model), fresh):
        assert torch.equal(other(*inputs), model(*inputs))


def test_the_parameters_of_late_fusion_keep_their_names() -> None:
    # Checkpoints of older versions have them.
    names = {n for n, _ in classifier("late").named_parameters() if n.startswith("metadata.")}
    assert names == {f"metadata.{layer}.{name}" for layer in (0, 3) for name in ("weight", "bias")}


def test_it_compiles_and_exports(kind: str, inputs: Inputs) -> None:
    model = classifier(kind).eval()
    expected = model(*inputs)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(*inputs), expected)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, inputs, dynamic_shapes=({0: batch}, {0: batch}))
    torch.testing.assert_close(program.module()(*inputs), expected)
    torch.testing.assert_close(program.module()(inputs[0][:2], inputs[1][:2]), expected[:2])


@pytest.mark.parametrize("kind", ["concat", "metablock"])
def test_its_norms_have_the_momentum_of_the_recipe(kind: str) -> None:
    model = classifier(kind, norm_momentum=0.01)
    norms = [m for m in model.metadata.modules() if isinstance(m, nn.BatchNorm1d)]
    assert norms
    assert {norm.momentum for norm in norms} == {0.01}


def test_a_concatenation_starts_as_its_head_would() -> None:
    fusion = classifier("concat", head_init="keras").metadata
    limit = math.sqrt(6 / (fusion.fc.in_features + fusion.fc.out_features))
    assert fusion.fc.weight.abs().max().item() == pytest.approx(limit, rel=0.01)
    assert not fusion.fc.bias.any()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "late"])
def test_without_metadata_it_is_refused(kind: str) -> None:
    with pytest.raises(RecipeError, match=rf"model\.fusion {kind} .* data\.metadata is false"):
        load_recipe("smoke", [f"model.fusion={kind}"])
