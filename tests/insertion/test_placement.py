import pytest
import torch
from torch import Tensor, nn

from softattn import ArgumentError, ModelError
from softattn.insertion.placement import find_targets, run_with_parents


class RunsChildren(nn.Sequential):
    """A block with a forward of its own, which runs all its children."""

    def forward(self, x: Tensor) -> Tensor:
        for child in self.children():
            x = child(x)
        return x


class Takes(nn.Sequential):
    """A block that takes its children by position."""

    def forward(self, x: Tensor) -> Tensor:
        return x + self[1](self[0](x))


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 1)


MODEL = nn.Sequential(
    nn.Sequential(conv(), nn.Sequential(nn.ReLU(), conv())),
    RunsChildren(conv(), nn.Sequential(conv(), nn.ReLU())),
    Takes(conv(), nn.ReLU()),
)


@pytest.mark.parametrize(
    ("name", "target", "parent"),
    [
        ("0", "0.1.1", ""),  # a sequence may be walked: its last module
        ("0.1", "0.1.1", ""),
        ("0.0", "0.0", ""),
        ("1", "1", "1.1"),  # not a child of what runs its children
        ("2", "2", "1"),
        ("2.0", "2.0", ""),
    ],
)
def test_the_target_and_the_parent(name: str, target: str, parent: str) -> None:
    targets = find_targets(MODEL, [name], "inserting")
    assert targets == {target: name}
    run, parents = run_with_parents(MODEL, targets, (torch.zeros(1, 3, 4, 4),), "inserting")
    assert parents == {target: parent}
    assert run.calls[target].output is not None


def test_the_inputs_that_a_model_takes_are_found() -> None:
    class Small(nn.Sequential):
        img_size = 8

    model = Small(conv(), nn.Flatten(), nn.Linear(3 * 8 * 8, 2))
    run, _ = run_with_parents(model, {"0": "0"}, None, "inserting")
    assert [x.shape for x in run.inputs] == [(2, 3, 8, 8)]


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([""], "'' is the whole model"),
        (["3"], "inserting: Sequential has no module '3'. "),
        (["0", "0.1"], "two insertions at one place: '0' and '0.1' have the same output"),
    ],
)
def test_names_that_are_refused(names: list[str], text: str) -> None:
    with pytest.raises(ArgumentError, match=text):
        find_targets(MODEL, names, "inserting")


def test_a_model_that_does_not_run() -> None:
    with pytest.raises(
        ModelError, match=r"doesn't run on a tensor \(1, 5\) \(RuntimeError: .*Pass"
    ):
        run_with_parents(MODEL, {"0.0": "0.0"}, (torch.zeros(1, 5),), "inserting")
