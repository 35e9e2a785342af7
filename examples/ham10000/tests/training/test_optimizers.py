import pytest
import torch

from ham10000.models import LesionClassifier, build_model
from ham10000.recipe import ModelRecipe, OptimizerRecipe
from ham10000.training.optimizers import build_optimizer


@pytest.fixture
def model() -> LesionClassifier:
    return build_model(ModelRecipe("ham10000:tiny", attention=True), size=32)


def test_the_fields_reach_the_optimizer(model: LesionClassifier) -> None:
    adam = build_optimizer(OptimizerRecipe("adam", lr=0.01, eps=0.1, betas=(0.8, 0.9)), model)
    assert type(adam) is torch.optim.Adam
    assert {(g["lr"], g["eps"], g["betas"]) for g in adam.param_groups} == {(0.01, 0.1, (0.8, 0.9))}
    assert type(build_optimizer(OptimizerRecipe("adamw"), model)) is torch.optim.AdamW
    sgd = build_optimizer(OptimizerRecipe("sgd", momentum=0.5), model)
    assert [(g["momentum"], g["nesterov"]) for g in sgd.param_groups] == [(0.5, True)] * len(
        sgd.param_groups
    )
    plain = build_optimizer(OptimizerRecipe("sgd", momentum=0), model)
    assert not plain.param_groups[0]["nesterov"]


def test_matrices_decay_and_nothing_else(model: LesionClassifier) -> None:
    optimizer = build_optimizer(OptimizerRecipe("adamw", weight_decay=0.1), model)
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            assert group["weight_decay"] == (0.1 if parameter.ndim > 1 else 0.0)


def test_rates_fall_towards_the_input(model: LesionClassifier) -> None:
    recipe = OptimizerRecipe(lr=1.0, head_lr_scale=4.0, layer_decay=0.5)
    optimizer = build_optimizer(recipe, model)
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    named = dict(model.named_parameters())
    first = rates[id(named["network.backbone.model.block1.0.0.weight"])]
    last = rates[id(named["network.backbone.model.block3.1.0.weight"])]
    assert first < last == 1.0
    assert rates[id(named["network.head.fc.weight"])] == 4.0
    assert rates[id(named["network.attention.attention.gamma"])] == 4.0


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("fused", [False, True])
def test_an_optimizer_from_before_freezing_trains_all_afterwards(
    model: LesionClassifier, name: str, fused: bool
) -> None:
    optimizer = build_optimizer(OptimizerRecipe(name, weight_decay=0.1), model, fused=fused)
    model.freeze_backbone()
    first = model.get_parameter("network.backbone.model.block1.0.0.weight")
    start = first.detach().clone()

    def step() -> None:
        optimizer.zero_grad()
        model(torch.randn(2, 3, 32, 32)).square().sum().backward()
        optimizer.step()

    step()
    assert torch.equal(first, start)
    model.unfreeze_backbone()
    step()
    assert not torch.equal(first, start)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_fused_kernels_make_the_same_steps(name: str) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    trained = []
    for fused in (False, True):
        torch.manual_seed(1)
        model = build_model(ModelRecipe("ham10000:tiny", attention=True), size=32).double()
        recipe = OptimizerRecipe(name, lr=0.01, weight_decay=0.1)
        optimizer = build_optimizer(recipe, model, fused=fused)
        assert all(bool(group["fused"]) == fused for group in optimizer.param_groups)
        for _ in range(3):
            optimizer.zero_grad()
            model.eval()(images.double()).square().sum().backward()
            optimizer.step()
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*trained, rtol=1e-9, atol=1e-12)
