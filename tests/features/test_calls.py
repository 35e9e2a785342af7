import pytest
import torch
from torch import Tensor, nn

from softattn.features.calls import Calls, copy_sharing_parameters, default_inputs, record_calls


class Sized(nn.Module):
    def __init__(self, channels: int = 3, **attributes: object) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3)
        for name, value in attributes.items():
            setattr(self, name, value)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


@pytest.mark.parametrize(
    ("model", "shapes"),
    [
        (Sized(), [(2, 3, 224, 224)]),
        (Sized(image_size=32), [(2, 3, 32, 32), (2, 3, 224, 224)]),
        (Sized(pretrained_cfg={"input_size": (3, 64, 96)}), [(2, 3, 64, 96), (2, 3, 224, 224)]),
        (nn.Sequential(Sized(img_size=[8, 16])), [(2, 3, 8, 16), (2, 3, 224, 224)]),
        (Sized(5), [(2, 5, 224, 224), (2, 3, 224, 224)]),
        (nn.ReLU(), [(2, 3, 224, 224)]),
    ],
)
def test_inputs_are_what_the_model_declares(model: nn.Module, shapes: list[object]) -> None:
    assert [tuple(x.shape) for (x,) in default_inputs(model)] == shapes


def test_inputs_are_where_and_as_the_parameters_are() -> None:
    model = nn.Conv2d(3, 4, 3, device="meta", dtype=torch.bfloat16)
    [(x,)] = default_inputs(model)
    assert x.is_meta
    assert x.dtype == torch.bfloat16


def test_a_copy_shares_parameters_and_nothing_else() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    copied = copy_sharing_parameters(model, "copying")
    assert all(map(lambda a, b: a is b, copied.parameters(), model.parameters()))
    copied(torch.randn(2, 3, 8, 8))
    copied.eval()
    assert model[1].num_batches_tracked == 0
    assert model[1].training


def test_calls_are_counted_and_hooks_taken_back() -> None:
    relu = nn.ReLU()
    model = nn.ModuleDict({"first": relu, "second": relu, "third": nn.Conv2d(3, 4, 1)})
    model.forward = lambda x: relu(relu(x))  # type: ignore[method-assign]
    calls = record_calls(model, (torch.zeros(1, 3, 2, 2),), keep={"second"})
    assert calls["first"] == Calls(2, 4, None, (1, 3, 2, 2))
    assert calls["second"].output is not None
    assert calls["third"] == Calls()
    assert not any(module._forward_hooks for module in model.modules())


def test_the_random_state_stays() -> None:
    state = torch.get_rng_state()
    dropout = nn.Sequential(nn.RReLU())
    dropout.eval = lambda: dropout  # type: ignore[method-assign]
    record_calls(dropout, (-torch.ones(4),), keep=set())
    list(default_inputs(dropout))
    assert torch.equal(torch.get_rng_state(), state)
