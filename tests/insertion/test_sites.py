import pytest
import torch
from torch import Tensor, nn

from softattn import ModelError
from softattn.features import Hints, Layout, MapLayout, TokenGrid
from softattn.insertion.sites import find_sites


class Patches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, 8, 16, stride=16)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


class Tokens(nn.Module):
    """Patches, blocks that are called one by one, and a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = Patches()
        self.blocks = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
        self.norm = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x)
        for block in self.blocks:
            x = block(x)
        return self.norm(x).mean(1)


X = torch.zeros(2, 3, 64, 96)


def test_what_a_site_is() -> None:
    [site] = find_sites(nn.Sequential(Tokens()), ["0.blocks.1"], (X,), Hints(), "inserting")
    assert (site.host, site.parent, site.caller) == ("0.blocks.1", "", "0")
    assert site.image_module == "0.patches"
    assert site.map_layout == MapLayout(Layout.NLC, TokenGrid(4, 6, 16))
    assert (site.channels, site.dtype, site.device.type) == (8, torch.float32, "cpu")


def test_the_whole_model_may_be_all_that_takes_images() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    [site] = find_sites(model, ["1"], (X,), Hints(), "inserting")
    assert (site.caller, site.image_module) == ("", "")


def test_other_modules_are_named_when_one_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"inserting at 'head': its output is a list of 2.* Other modu"
    ):
        find_sites(WithList(), ["head"], (X,), Hints(), "inserting")


def test_a_module_that_two_stages_share() -> None:
    relu = nn.ReLU()
    model = nn.Sequential()
    model.add_module("a", nn.Sequential(nn.Conv2d(3, 8, 3), relu))
    model.add_module("b", nn.Sequential(nn.Conv2d(8, 8, 3), relu))
    with pytest.raises(ModelError, match=r"last module 'b.1' runs 2 times .* once\.") as raised:
        find_sites(model, ["b"], (X,), Hints(), "inserting")
    text = str(raised.value)
    assert "It is the same module as 'a.1': use a separate one." in text
    suggested = text.rpartition(": ")[2].rstrip(".").split(", ")
    assert suggested == ["b.0"]
    for name in suggested:  # what is suggested works
        assert find_sites(model, [name], (X,), Hints(), "inserting")
    model.b[1] = nn.ReLU()
    assert find_sites(model, ["b"], (X,), Hints(), "inserting")[0].host == "b.1"


class WithList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)[0]


class Pair(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, x]
