import numpy as np
import pytest
import torch

from ham10000.recipe import LossRecipe
from ham10000.training.losses import (
    ClassLoss,
    MultiWeightedLoss,
    build_loss,
    cumulative_share,
    effective_weights,
)

COUNTS = [304, 488, 1033, 109, 1079, 6042, 132]


def reference(
    scores: np.ndarray, shares: np.ndarray, weight: np.ndarray, smoothing: float, gamma: float
) -> np.ndarray:
    """The formula, in float64."""
    shifted = scores - scores.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    shares = (1 - smoothing) * shares + smoothing / scores.shape[1]
    losses: np.ndarray = (-shares * weight * (1 - np.exp(logs)) ** gamma * logs).sum(1)
    return losses


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_are_those_of_the_formula(
    soft: bool, gamma: float, smoothing: float, weighted: bool
) -> None:
    draw = np.random.default_rng(0)
    scores, labels = 4 * draw.standard_normal((9, 7)), draw.integers(0, 7, 9)
    shares = draw.dirichlet(np.ones(7), 9) if soft else np.eye(7)[labels]
    weight = draw.uniform(0.5, 5, 7) if weighted else np.ones(7)
    loss = ClassLoss(torch.tensor(weight) if weighted else None, smoothing, gamma)
    targets = torch.tensor(shares) if soft else torch.tensor(labels)
    expected = reference(scores, shares, weight, smoothing, gamma)
    assert np.allclose(loss(torch.tensor(scores), targets).numpy(), expected, rtol=1e-12)
    single = loss(torch.tensor(scores).float(), targets if not soft else targets.float())
    assert np.allclose(single.numpy(), expected, rtol=1e-5)


def test_half_precision_is_computed_in_single() -> None:
    scores, targets = torch.randn(8, 7).bfloat16(), torch.arange(8) % 7
    for loss in (ClassLoss(), ClassLoss(gamma=2.0)):
        assert loss(scores, targets).dtype == torch.float32
        assert torch.equal(loss(scores, targets), loss(scores.float(), targets))


def test_a_confident_correct_score_has_a_finite_gradient() -> None:
    scores = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    for gamma in (0.0, 0.5, 2.0):
        loss = ClassLoss(gamma=gamma)(scores, torch.tensor([0, 0]))
        loss.sum().backward()
        assert loss.isfinite().all()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


def test_focal_is_less_of_what_is_right_already() -> None:
    scores = torch.tensor([[3.0, 0.0], [-1.0, 0.0]])
    plain, focal = (ClassLoss(gamma=gamma)(scores, torch.tensor([0, 0])) for gamma in (0.0, 2.0))
    right, wrong = (focal / plain).tolist()
    assert right < 0.01
    assert wrong > 0.5


def test_weights_by_name_follow_the_order_of_the_classes() -> None:
    loss = build_loss(LossRecipe(class_weights={"vasc": 3, "akiec": 2}), COUNTS)
    assert loss.weight is not None
    assert loss.weight.tolist() == [2, 1, 1, 1, 1, 1, 3]


def test_balanced_weights_give_every_class_the_same_sum() -> None:
    for recipe in (
        LossRecipe(class_weights="balanced"),
        LossRecipe("class_balanced", beta=1 - 1e-9),
    ):
        weight = build_loss(recipe, COUNTS).weight
        assert weight is not None
        sums = weight.double() * torch.tensor(COUNTS)
        assert torch.allclose(sums, sums.mean().expand(7), rtol=1e-4)


def test_effective_weights() -> None:
    numbers = [(1 - 0.999**count) / (1 - 0.999) for count in COUNTS]
    inverse = np.array([1 / number for number in numbers])
    assert np.allclose(effective_weights(COUNTS, 0.999), inverse * 7 / inverse.sum())
    assert torch.equal(effective_weights(COUNTS, 0.0), torch.ones(7))


def test_a_class_without_images_weighs_nothing() -> None:
    for recipe in (LossRecipe(class_weights="balanced"), LossRecipe("class_balanced")):
        weight = build_loss(recipe, [5, 0, 5, 5, 5, 5, 5]).weight
        assert weight is not None
        assert torch.allclose(weight, torch.tensor([1.0, 0, 1, 1, 1, 1, 1]))


def test_only_focal_has_gamma() -> None:
    assert build_loss(LossRecipe(gamma=3), COUNTS).gamma == 0
    assert build_loss(LossRecipe("focal", gamma=3), COUNTS).gamma == 3


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("gamma", [0.0, 2.0])
@pytest.mark.parametrize("epoch", [0, 3, 8])
def test_the_multi_weighted_loss_is_that_of_the_equations(
    soft: bool, gamma: float, epoch: int
) -> None:
    draw = np.random.default_rng(1)
    scores, labels = 4 * draw.standard_normal((9, 7)), draw.integers(0, 7, 9)
    shares = draw.dirichlet(np.ones(7), 9) if soft else np.eye(7)[labels]
    a = {0: 0.0, 3: 0.25, 8: 1.0}[epoch]  # from epoch 1 to 5
    weight = np.array(COUNTS, dtype=float) ** (-1.2 * a)
    weight *= 7 / weight.sum()
    expected = np.zeros(9)
    for sample in range(9):
        total = 0.0
        for c in range(7):
            p = 1 / (1 + np.exp(-scores[sample, c]))
            for share, q in ((shares[sample, c], p), (1 - shares[sample, c], 1 - p)):
                kept = max(q, 0.1)
                total += share * (1 - kept) ** gamma * -np.log(kept)
        expected[sample] = total * (shares[sample] @ weight)
    loss = MultiWeightedLoss(torch.tensor(COUNTS), 1.2, gamma, (1, 5)).double()
    loss.set_epoch(epoch)
    targets = torch.tensor(shares) if soft else torch.tensor(labels)
    assert np.allclose(loss(torch.tensor(scores), targets).numpy(), expected, rtol=1e-10)


def test_an_outlier_has_no_gradient() -> None:
    scores = torch.tensor([[-9.0, 9.0, 0.0]], dtype=torch.float64, requires_grad=True)
    MultiWeightedLoss(torch.tensor([5, 5, 5]))(scores, torch.tensor([0])).sum().backward()
    assert scores.grad is not None
    assert scores.grad[0, :2].tolist() == [0.0, 0.0]
    assert scores.grad[0, 2] > 0


def test_the_weights_grow_with_the_epochs_of_a_recipe() -> None:
    recipe = LossRecipe("multi_weighted", cumulative=(2, 6))
    loss = build_loss(recipe, [*COUNTS[:6], 0])
    assert isinstance(loss, MultiWeightedLoss)
    assert loss.weight.tolist() == [1.0] * 6 + [0.0]
    spread = []
    for epoch in (2, 4, 6, 9):
        loss.set_epoch(epoch)
        assert loss.weight.mean() * 7 == pytest.approx(6)
        spread.append(float(loss.weight.max() / loss.weight[:6].min()))
    assert spread[0] == 1
    assert spread == sorted(spread)
    assert spread[-1] == pytest.approx((6042 / 109) ** 1.2, rel=1e-5)
    constant = build_loss(LossRecipe("multi_weighted"), COUNTS)
    before = constant.weight.clone()
    constant.set_epoch(7)
    assert torch.equal(constant.weight, before)
    assert cumulative_share(0, None) == 1.0
