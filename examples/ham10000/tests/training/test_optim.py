import json
import math

import pytest
import torch
from building import build_classifier

from ham10000.models import LesionClassifier
from ham10000.recipe import AttentionRecipe, ModelRecipe, OptimizerRecipe, ScheduleRecipe
from ham10000.training.optim import (
    KerasAdam,
    Schedule,
    average_weights,
    build_optimizer,
    build_schedule,
)

PAPER = AttentionRecipe("soft", "paper")


@pytest.fixture
def model() -> LesionClassifier:
    return build_classifier(ModelRecipe("ham10000:tiny"), attention=PAPER, size=32)


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


@pytest.mark.parametrize("name", ["sgd", "adam", "adam_keras", "adamw"])
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
        model = build_classifier(ModelRecipe("ham10000:tiny"), attention=PAPER, size=32).double()
        recipe = OptimizerRecipe(name, lr=0.01, weight_decay=0.1)
        optimizer = build_optimizer(recipe, model, fused=fused)
        assert all(bool(group["fused"]) == fused for group in optimizer.param_groups)
        for _ in range(3):
            optimizer.zero_grad()
            model.eval()(images.double()).square().sum().backward()
            optimizer.step()
        trained.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    torch.testing.assert_close(*trained, rtol=1e-9, atol=1e-12)


def build(
    recipe: ScheduleRecipe, steps: int = 10, epochs: int = 4, mode: str = "min"
) -> tuple[torch.optim.Optimizer, Schedule]:
    groups = [
        {"params": [torch.zeros(1, requires_grad=True)], "lr": 1.0},
        {"params": [torch.zeros(1, requires_grad=True)], "lr": 0.1},
    ]
    optimizer = torch.optim.AdamW(groups)
    return optimizer, build_schedule(recipe, optimizer, steps, epochs, mode)  # type: ignore[arg-type]


def rates(recipe: ScheduleRecipe, steps: int = 10, epochs: int = 4) -> list[float]:
    optimizer, schedule = build(recipe, steps, epochs)
    seen = []
    for _ in range(steps * epochs):
        seen.append(schedule.lr)
        assert optimizer.param_groups[1]["lr"] == pytest.approx(0.1 * schedule.lr)
        optimizer.step()
        schedule.step()
    return seen


def test_constant() -> None:
    assert rates(ScheduleRecipe("constant")) == [1.0] * 40
    warm = rates(ScheduleRecipe("constant", warmup_epochs=1))
    assert warm == pytest.approx([step / 10 for step in range(1, 11)] + [1.0] * 30)


def test_cosine_after_a_warm_up() -> None:
    seen = rates(ScheduleRecipe("cosine", warmup_epochs=1, final=0.1))
    assert seen[:10] == pytest.approx([step / 10 for step in range(1, 11)])
    expected = [0.1 + 0.9 * (1 + math.cos(math.pi * step / 30)) / 2 for step in range(30)]
    assert seen[10:] == pytest.approx(expected)


def test_one_cycle_rises_and_falls() -> None:
    seen = rates(ScheduleRecipe("one_cycle", final=0.01))
    assert seen[0] == pytest.approx(1 / 25)
    assert seen.index(max(seen)) == 11
    assert max(seen) == pytest.approx(1.0, abs=1e-2)
    assert seen[-1] == pytest.approx(0.01)
    longer = rates(ScheduleRecipe("one_cycle", warmup_epochs=2))
    assert longer.index(max(longer)) == 20
    assert longer[-1] < 1e-5


def test_plateau_advances_with_epochs_only() -> None:
    recipe = ScheduleRecipe("plateau", factor=0.5, patience=1, final=0.2)
    optimizer, schedule = build(recipe)
    seen = []
    for metric in (1.0, 0.5, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7):
        for _ in range(10):
            schedule.step()
        schedule.step(metric)
        seen.append(schedule.lr)
    assert seen == pytest.approx([1, 1, 1, 0.5, 0.5, 0.25, 0.25, 0.2])
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.02)


def test_plateau_of_what_should_grow() -> None:
    recipe = ScheduleRecipe("plateau", factor=0.5, patience=0)
    _, schedule = build(recipe, mode="max")
    for metric in (0.1, 0.2, 0.3):
        schedule.step(metric)
    assert schedule.lr == 1.0
    schedule.step(0.3)
    assert schedule.lr == 0.5


def test_other_schedules_do_not_advance_with_epochs() -> None:
    for name in ("constant", "cosine", "one_cycle"):
        _, schedule = build(ScheduleRecipe(name))  # type: ignore[arg-type]
        before = schedule.lr
        schedule.step(0.5)
        assert schedule.lr == before


@pytest.mark.parametrize("name", ["constant", "cosine", "one_cycle", "plateau"])
def test_a_resumed_schedule_goes_on(name: str) -> None:
    recipe = ScheduleRecipe(name, patience=0)  # type: ignore[arg-type]

    def go(optimizer: torch.optim.Optimizer, schedule: Schedule, steps: int) -> list[float]:
        seen = []
        for step in range(steps):
            optimizer.step()
            schedule.step()
            if step % 10 == 9:
                schedule.step(1.0)
            seen.append(schedule.lr)
        return seen

    optimizer, schedule = build(recipe)
    go(optimizer, schedule, 20)
    state = json.loads(json.dumps(schedule.state_dict()))  # plain numbers only
    memory = optimizer.state_dict()
    rest = go(optimizer, schedule, 20)
    optimizer, schedule = build(recipe)
    optimizer.load_state_dict(memory)
    schedule.load_state_dict(state)
    assert go(optimizer, schedule, 20) == rest


@pytest.mark.parametrize("name", ["constant", "cosine", "one_cycle", "plateau"])
@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("warmup", [0.0, 0.5])
def test_very_short_runs(name: str, steps: int, warmup: float) -> None:
    seen = rates(ScheduleRecipe(name, warmup_epochs=warmup), steps, 1)  # type: ignore[arg-type]
    assert all(0 < rate <= 1 for rate in seen)


def test_one_cycle_stays_at_its_end() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    schedule = build_schedule(ScheduleRecipe("one_cycle"), optimizer, steps_per_epoch=2, epochs=2)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    end = schedule.lr
    for _ in range(3):  # of a run that was resumed on fewer processes
        optimizer.step()
        schedule.step()
    assert schedule.lr == end < 0.01


def test_the_average_follows_with_a_growing_decay() -> None:
    model = torch.nn.BatchNorm1d(1)
    ema = average_weights(model, 0.7)
    assert ema is not None
    expected = None
    for step, value in enumerate((1.0, 3.0, -2.0, 5.0, 0.5)):
        model.weight.data.fill_(value)
        model.running_mean.fill_(-value)
        model.num_batches_tracked.fill_(step)
        ema.update_parameters(model)
        if expected is None:
            expected = value
        else:
            decay = min(0.7, (1 + step) / (10 + step))
            expected = decay * expected + (1 - decay) * value
        assert abs(ema.module.weight.item() - expected) < 1e-6
        assert abs(ema.module.running_mean.item() + expected) < 1e-6
        assert ema.module.num_batches_tracked.item() == step
    assert average_weights(model, None) is None


@pytest.mark.parametrize("fused", [False, True])
def test_keras_adam_equals_the_equations_of_keras(fused: bool) -> None:
    lr, eps, (b1, b2) = 0.01, 0.1, (0.8, 0.99)
    gradients = [[1.0, -0.02], [0.5, 3.0], [-2.0, 0.0]]
    weight = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    late = torch.zeros(1, dtype=torch.float64, requires_grad=True)  # trained from the second step
    groups = [{"params": [weight]}, {"params": [late]}]
    optimizer = KerasAdam(groups, lr=lr, eps=eps, betas=(b1, b2), fused=fused)

    def train(optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for number in range(first, last):
            weight.grad = torch.tensor(gradients[number], dtype=torch.float64)
            late.grad = weight.grad[:1].clone() if number else None
            optimizer.step()

    train(optimizer, 0, 2)
    resumed = KerasAdam(groups, lr=lr, eps=eps, betas=(b1, b2), fused=fused)
    resumed.load_state_dict(optimizer.state_dict())
    assert resumed.param_groups[0]["eps"] == eps
    train(resumed, 2, 3)

    def expected(gradients: list[float]) -> float:
        w = m = v = 0.0
        for t, g in enumerate(gradients, start=1):
            m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
            alpha = lr * math.sqrt(1 - b2**t) / (1 - b1**t)
            w -= alpha * m / (math.sqrt(v) + eps)
        return w

    for index in range(2):
        assert weight[index].item() == pytest.approx(expected([g[index] for g in gradients]), 1e-12)
    assert late.item() == pytest.approx(expected([g[0] for g in gradients[1:]]), 1e-12)


def test_a_recipe_can_have_the_adam_of_keras(model: LesionClassifier) -> None:
    optimizer = build_optimizer(OptimizerRecipe("adam_keras", eps=0.1), model, fused=True)
    assert type(optimizer) is KerasAdam
    assert {group["eps"] for group in optimizer.param_groups} == {0.1}
