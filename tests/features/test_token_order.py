import pytest
import torch
from torch import nn

from softattn.features.token_order import is_reordered, own_maps

timm = pytest.importorskip("timm", reason="needs softattn[timm]")


def test_maps_of_the_named_stages_in_any_order():
    model = timm.create_model("test_vit", img_size=64).eval()
    x = torch.randn(2, 3, 64, 64)
    maps = own_maps(model, (x,), ["blocks.2", "norm", "blocks.0"])
    with torch.no_grad():
        wanted = model.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    assert set(maps) == {"blocks.0", "blocks.2"}
    assert torch.equal(maps["blocks.0"], wanted[0])
    assert torch.equal(maps["blocks.2"], wanted[1])


def test_what_a_model_cant_give_is_no_evidence():
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.feature_info = [{"module": "0"}]

        def forward_intermediates(self, *args, **kwargs):
            raise ValueError

    assert own_maps(Fails(), (torch.zeros(1),), ["0"]) == {}
    assert own_maps(nn.Identity(), (torch.zeros(1),), ["0"]) == {}


def test_reordered_is_the_same_values_elsewhere():
    own = torch.randn(1, 2, 4, 4)
    assert is_reordered(own.flip(2), own)
    assert not is_reordered(own.clone(), own)
    assert not is_reordered(own + 1, own)
    assert not is_reordered(own.flip(2)[:, :, :2], own)
    assert not is_reordered(own.flip(2).to("meta"), own)
