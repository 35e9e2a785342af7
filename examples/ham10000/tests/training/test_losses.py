import numpy as np
import pytest
import torch

from ham10000.recipe import LossRecipe
from ham10000.training.losses import ClassLoss, build_loss, effective_weights

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
