import copy
import pickle
from dataclasses import replace

import pytest
import torch
from building import build_classifier
from rich.console import Console

from ham10000.errors import ArgumentError
from ham10000.models import (
    LesionClassifier,
    parameter_table,
    summarize_model,
    summary_rows,
    summary_table,
)
from ham10000.models.classifier import ModelSummary
from ham10000.recipe import AttentionRecipe, ModelRecipe

RECIPE = ModelRecipe("ham10000:tiny")
PAPER = AttentionRecipe("soft", "paper")


@pytest.fixture
def model() -> LesionClassifier:
    torch.manual_seed(0)
    return build_classifier(RECIPE, attention=PAPER, size=32, metadata=True)


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
        build_classifier(RECIPE, attention=PAPER, size=32)(*inputs)


def test_maps_where_there_is_no_attention(inputs: Inputs) -> None:
    model = build_classifier(ModelRecipe("ham10000:tiny"), size=32)
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
    fresh = build_classifier(RECIPE, attention=PAPER, size=32, metadata=True).eval()
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(*inputs), scores)


@pytest.mark.parametrize("backbone", ["ham10000:tiny", "timm:test_resnet"])
def test_it_compiles_in_one_graph(backbone: str) -> None:
    model = build_classifier(ModelRecipe(backbone), attention=PAPER, size=64, metadata=True).eval()
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


def test_a_summary_counts_trained_and_frozen_parameters_by_part() -> None:
    placebo = replace(PAPER, layer="placebo")
    model = build_classifier(RECIPE, attention=placebo, size=32, metadata=True)
    model.freeze_backbone()
    model.train()
    summary = summarize_model(model, torch.randn(2, 3, 32, 32))
    counts = [*summary.trained.values(), *summary.frozen.values()]
    assert sum(counts) == sum(p.numel() for p in model.parameters())
    assert (summary.trained["attention"], summary.frozen["attention"]) == (1, 32 * 9 * 16 + 16)
    assert (summary.trained["backbone"], summary.frozen["backbone"]) == (0, 7264)
    assert summary.trained["metadata"] == 18 * 64 + 64 + 64 * 7 + 7
    assert model.training
    assert not model.network.backbone.training  # frozen


def test_a_summary_has_the_features_that_the_head_receives() -> None:
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, attention, drop_rate in (
        ("none", AttentionRecipe(), 0.25),
        ("placebo", AttentionRecipe("placebo", gamma=0.5), 0.0),
        ("paper", PAPER, 0.25),
    ):
        torch.manual_seed(0)
        model = build_classifier(replace(RECIPE, drop_rate=drop_rate), attention=attention, size=32)
        found[name] = summarize_model(model, images)
    none, placebo, paper = found.values()
    # 16 uniform maps on 4 x 4 positions add up to 1, so gamma is the scale.
    assert placebo.head_input_std == pytest.approx(0.5 * none.head_input_std, rel=1e-5)
    assert none.head_input == placebo.head_input == [32, 4, 4]
    assert paper.head_input == [64, 2, 2]
    assert [each.num_maps for each in found.values()] == [0, 16, 16]
    assert [each.dropout for each in found.values()] == [[0.25], [], [0.5, 0.25]]
    rows = {row[0]: row[1:] for row in summary_rows(found, "none")}
    assert rows["none"] == ["7,264", "0", "231", "32x4x4", "1", "0", "0.25"]
    assert rows["placebo"] == ["7,264", "1 + 4,624", "231", "32x4x4", "0.5", "16", "0"]
    assert rows["paper"][-1] == "0.5, 0.25"


def test_a_table_of_large_models_fits_80_columns() -> None:
    trained = {"backbone": 54_306_464, "attention": 1, "head": 119_578_631, "metadata": 9_999}
    frozen = {"attention": 999_500}
    summary = ModelSummary(trained, frozen, (1024, 14, 14), 0.0, 16, (0.5,))
    console = Console(width=80)
    with console.capture() as captured:
        console.print(summary_table({"resnet34_placebo": summary, "other": summary}, "other"))
    lines = captured.get().splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = (line for line in lines if line.startswith("resnet34_placebo"))
    assert " ".join(row.split()[1:]) == "54.3M 1 + 1M 120M 1024x14x14 nan 16 0.5"
    assert "relative to other" in " ".join(captured.get().split())


def test_the_table_has_the_authors_counts_where_known() -> None:
    model = build_classifier(RECIPE, attention=PAPER, size=32)
    assert "the authors'" not in shown(model)
    text = shown(model, {"backbone": 1_000, "attention": 234, "head": 5})
    assert "the authors'" in text
    assert "1,239" in text
    assert "7,264" in text
