import copy
import pickle

import pytest
import torch
from rich.console import Console

from ham10000.errors import ArgumentError
from ham10000.models import (
    LesionClassifier,
    build_model,
    count_parameters,
    parameter_table,
)
from ham10000.recipe import AttentionRecipe, ModelRecipe

RECIPE = ModelRecipe("ham10000:tiny")
PAPER = AttentionRecipe("soft", "paper")


@pytest.fixture
def model() -> LesionClassifier:
    torch.manual_seed(0)
    return build_model(RECIPE, attention=PAPER, size=32, metadata=True)


@pytest.fixture
def inputs(model: LesionClassifier) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(3, 3, 32, 32, generator=generator),
        torch.rand(3, model.metadata_features, generator=generator),
    )


Inputs = tuple[torch.Tensor, torch.Tensor]


def test_metadata_starts_with_nothing_and_is_learned(
    model: LesionClassifier, inputs: Inputs
) -> None:
    model.eval()
    images, metadata = inputs
    assert torch.equal(model(images, metadata), model.network(images))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(*inputs), torch.tensor([0, 1, 2])).backward()
        optimizer.step()
    assert not torch.equal(model(images, metadata), model.network(images))
    assert not torch.equal(model(images, metadata), model(images, metadata.flip(0)))


def test_maps_come_with_the_same_scores(model: LesionClassifier, inputs: Inputs) -> None:
    model.eval()
    scores, maps = model(*inputs, return_maps=True)
    assert torch.equal(scores, model(*inputs))
    assert maps.shape == (3, 16, 4, 4)
    assert torch.allclose(maps.sum((2, 3)), torch.ones(3, 16))


def test_metadata_must_match_the_model(model: LesionClassifier, inputs: Inputs) -> None:
    with pytest.raises(ArgumentError, match="built with metadata and called without"):
        model(inputs[0])
    with pytest.raises(ArgumentError, match="built without metadata and called with"):
        build_model(RECIPE, attention=PAPER, size=32)(*inputs)


def test_maps_where_there_is_no_attention(inputs: Inputs) -> None:
    model = build_model(ModelRecipe("ham10000:tiny"), size=32)
    assert not model.has_attention
    with pytest.raises(ArgumentError, match=r"attention\.layer .* soft, placebo, keras"):
        model(inputs[0], return_maps=True)


def test_every_parameter_has_a_gradient(model: LesionClassifier, inputs: Inputs) -> None:
    # DDP ends with an error otherwise.
    model(*inputs).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_copies_and_pickles_compute_the_same(model: LesionClassifier, inputs: Inputs) -> None:
    model.eval()
    scores = model(*inputs)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(*inputs), scores)
    fresh = build_model(RECIPE, attention=PAPER, size=32, metadata=True).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(*inputs), scores)


@pytest.mark.parametrize("backbone", ["ham10000:tiny", "timm:test_resnet"])
def test_it_compiles_in_one_graph(backbone: str) -> None:
    model = build_model(ModelRecipe(backbone), attention=PAPER, size=64, metadata=True).eval()
    inputs = torch.randn(2, 3, 64, 64), torch.rand(2, model.metadata_features)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(compiled(*inputs), model(*inputs), atol=1e-6)


def test_a_frozen_backbone_stays_while_the_heads_learn(
    model: LesionClassifier, inputs: Inputs
) -> None:
    model.freeze_backbone()
    model.train()
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(*inputs).square().sum().backward()
    optimizer.step()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert any(name.startswith("metadata.") for name in changed)
    assert any(name.startswith("network.head.") for name in changed)
    assert not any(name.startswith("network.backbone.") for name in changed)
    model.unfreeze_backbone()
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_groups_hold_every_parameter_once(model: LesionClassifier, weight_decay: float) -> None:
    groups = model.param_groups(0.1, head_lr_scale=10, weight_decay=weight_decay, layer_decay=0.5)
    held = [p for group in groups for p in group["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert len(held) == len(list(model.parameters()))
    assert model.metadata is not None
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in groups for p in g["params"]}
    for name, parameter in model.metadata.named_parameters():
        assert rates[id(parameter)] == (1.0, weight_decay if name.endswith("weight") else 0.0)


def shown(*args: object) -> str:
    console = Console(width=100)
    with console.capture() as captured:
        console.print(parameter_table(*args))  # type: ignore[arg-type]
    return captured.get()


def test_counts_are_those_of_the_parts() -> None:
    model = build_model(RECIPE, attention=PAPER, size=32, metadata=True)
    counts = count_parameters(model)
    assert sum(counts.values()) == sum(p.numel() for p in model.parameters())
    assert counts["attention"] == 32 * 9 * 16 + 16 + 1
    assert counts["metadata"] == 18 * 64 + 64 + 64 * 7 + 7


def test_the_table_has_the_authors_counts_where_known() -> None:
    model = build_model(RECIPE, attention=PAPER, size=32)
    assert "the authors'" not in shown(model)
    text = shown(model, {"backbone": 1_000, "attention": 234, "head": 5})
    assert "the authors'" in text
    assert "1,239" in text
    assert "7,264" in text
