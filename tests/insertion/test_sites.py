import pytest
import torch
from torch import Tensor, nn

from softattn import ModelError
from softattn.features import Layout, LayoutHints, MapLayout, TokenGrid
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
    [site] = find_sites(nn.Sequential(Tokens()), ["0.blocks.1"], (X,), LayoutHints(), "inserting")
    assert (site.target, site.parent, site.caller) == ("0.blocks.1", "", "0")
    assert site.image_module == "0.patches"
    assert site.map_layout == MapLayout(Layout.NLC, TokenGrid(4, 6, 16))
    assert (site.channels, site.dtype, site.device.type) == (8, torch.float32, "cpu")


def test_the_whole_model_may_be_all_that_takes_images() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU())
    [site] = find_sites(model, ["1"], (X,), LayoutHints(), "inserting")
    assert (site.caller, site.image_module) == ("", "")


def test_other_modules_are_named_when_one_is_refused() -> None:
    with pytest.raises(
        ModelError, match=r"inserting at 'head': its output is a list of 2.* Other modu"
    ):
        find_sites(WithList(), ["head"], (X,), LayoutHints(), "inserting")


def test_a_module_that_two_stages_share() -> None:
    relu = nn.ReLU()
    model = nn.Sequential()
    model.add_module("a", nn.Sequential(nn.Conv2d(3, 8, 3), relu))
    model.add_module("b", nn.Sequential(nn.Conv2d(8, 8, 3), relu))
    with pytest.raises(ModelError, match=r"last module 'b.1' runs 2 times .* once\.") as raised:
        find_sites(model, ["b"], (X,), LayoutHints(), "inserting")
    text = str(raised.value)
    assert "It is the same module as 'a.1': use a separate one." in text
    suggested = text.rpartition(": ")[2].rstrip(".").split(", ")
    assert suggested == ["b.0"]
    for name in suggested:  # what is suggested works
        assert find_sites(model, [name], (X,), LayoutHints(), "inserting")
    model.b[1] = nn.ReLU()
    assert find_sites(model, ["b"], (X,), LayoutHints(), "inserting")[0].target == "b.1"


class WithList(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = Pair()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x)[0]


class Pair(nn.Module):
    def forward(self, x: Tensor) -> list[Tensor]:
        return [x, x]


class FramesFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.fold = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        frames = self.conv(x.flatten(0, 1)).unflatten(0, x.shape[:2])
        return self.fold(frames).mean((1, 3, 4))


def test_frames_before_the_channels() -> None:
    with pytest.raises(ModelError, match="has a dimension of frames before its channels"):
        find_sites(
            FramesFirst(), ["fold"], (torch.zeros(2, 4, 3, 16, 16),), LayoutHints(), "inserting"
        )


class Cube(nn.Module):
    """Volumes as deep, high and wide as they have channels."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.last = last
        self.conv = nn.Conv3d(1, 8, 3, padding=1)
        self.out = nn.Identity()
        self.tokens = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        self.tokens(x.flatten(2).transpose(1, 2))
        return self.out(x.movedim(1, -1) if self.last else x)


@pytest.mark.parametrize("last", [False, True])
def test_volumes(last: bool) -> None:
    x = torch.zeros(2, 1, 8, 8, 8)
    [site] = find_sites(Cube(last), ["out"], (x,), LayoutHints(), "inserting")
    assert site.map_layout == MapLayout(Layout.NDHWC if last else Layout.NCDHW)
    assert (site.channels, site.size) == (8, (8, 8, 8))
    with pytest.raises(
        ModelError, match=r"expected \(B, C, D, H, W\).* of 4 or 5 dimensions. There are: conv"
    ):
        find_sites(Cube(last), ["tokens"], (x,), LayoutHints(), "inserting")


class Largest(nn.Module):
    def forward(self, x: Tensor) -> tuple[int, Tensor]:
        return 1, x.argmax(1)


@pytest.mark.parametrize(
    ("convolution", "dimensions"), [(nn.Conv2d, "3 or 4"), (nn.Conv3d, "4 or 5")]
)
def test_the_dimensions_that_are_needed(convolution: type[nn.Module], dimensions: str) -> None:
    net = nn.Sequential(convolution(3, 8, 3), Largest())
    message = rf"a tuple of 2: an int, a tensor .* with {dimensions} dimensions, alone or in"
    with pytest.raises(ModelError, match=message):
        find_sites(net, ["1"], None, LayoutHints(), "inserting")


def test_five_dimensions_of_an_image_are_no_volume() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Unflatten(1, (2, 4)))
    with pytest.raises(ModelError, match=r"\(2, 2, 4, 62, 94\) is not a feature map"):
        find_sites(model, ["1"], (X,), LayoutHints(), "inserting")


def test_images_in_a_list() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 8, 3, padding=1)
            self.pool = nn.AdaptiveAvgPool2d((2, 3))

        def forward(self, images: list[Tensor]) -> Tensor:
            return self.pool(self.body(torch.stack(images)))

    images = [torch.zeros(3, 16, 24)] * 3
    [site] = find_sites(Detector(), ["pool"], (images,), LayoutHints(), "inserting")
    assert (site.map_layout.layout, site.channels, site.size) == (Layout.NCHW, 8, (2, 3))


def test_videos_in_a_list() -> None:
    class Pathways(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.slow, self.fast = nn.Conv3d(3, 8, 1), nn.Conv3d(3, 4, 1)

        def forward(self, videos: list[Tensor]) -> Tensor:
            slow, fast = (m(v) for m, v in zip((self.slow, self.fast), videos, strict=True))
            return torch.cat([slow.mean((2, 3, 4)), fast.mean((2, 3, 4))], dim=1)

    videos = [torch.zeros(2, 3, 2, 16, 16), torch.zeros(2, 3, 8, 16, 16)]
    slow, fast = find_sites(Pathways(), ["slow", "fast"], (videos,), LayoutHints(), "inserting")
    assert slow.map_layout == fast.map_layout == MapLayout(Layout.NCDHW)
    assert (slow.channels, fast.size) == (8, (8, 16, 16))
