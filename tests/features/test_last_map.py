import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.segmentation import (
    deeplabv3_mobilenet_v3_large,
    lraspp_mobilenet_v3_large,
)

from softattn import ArgumentTypeError, ModelError, find_backbone
from softattn.features.backbone import Source
from softattn.features.last_map import find_last_feature_map


def conv(channels_in, channels_out):
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 3, 2, 1), nn.ReLU())


class UNet(nn.Module):
    """Encoder with a list of maps, and a decoder that upsamples to the input's size."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.ModuleDict({"stem": conv(3, 8), "stage": conv(8, 16)})
        self.decoder = nn.Sequential(nn.Conv2d(24, 4, 3, padding=1), nn.Upsample(scale_factor=2))

    def forward(self, x):
        first = self.encoder["stem"](x)
        last = self.encoder["stage"](first)
        return {"masks": [self.decoder(torch.cat([first, F.interpolate(last, scale_factor=2)], 1))]}


class Encoder(nn.Module):
    """Returns all maps, beginning with its input or an empty map of this size."""

    def __init__(self, with_input):
        super().__init__()
        self.with_input = with_input
        self.stem, self.stage = conv(3, 8), conv(8, 16)

    def forward(self, x):
        first = self.stem(x)
        whole = x if self.with_input else x[:, :0]
        return [whole, first, self.stage(first)]


@pytest.mark.parametrize("with_input", [True, False])
def test_an_encoder_that_returns_its_input_is_no_dense_predictor(with_input):
    backbone = find_backbone(Encoder(with_input), input_size=(64, 64))
    assert (backbone.feature_map.at, backbone.feature_map.size) == ("stage", (16, 16))


@pytest.mark.parametrize(
    ("build", "encoder", "channels"),
    [
        (UNet, "encoder.stage", 16),
        (lambda: deeplabv3_mobilenet_v3_large(weights_backbone=None), "backbone.16", 960),
        (lambda: lraspp_mobilenet_v3_large(weights_backbone=None), "backbone.16", 960),
    ],
)
def test_dense_predictors_are_refused_and_the_encoder_is_named(build, encoder, channels):
    model = build().eval()
    with pytest.raises(
        ModelError, match=rf"64 x 64, as of a dense predictor.* at= .* such as '{encoder}'"
    ):
        find_backbone(model, input_size=(64, 64))
    assert find_backbone(model, at=encoder, input_size=(64, 64)).feature_map.channels == channels


@pytest.mark.parametrize("at", [3, ["0"]])
def test_a_name_that_is_no_text_is_refused(at):
    with pytest.raises(ArgumentTypeError, match=r"at must be the name of a module or of a node, f"):
        find_backbone(nn.Sequential(conv(3, 8)), at=at)


def test_preprocessing_that_is_no_mapping_is_refused():
    with pytest.raises(
        ArgumentTypeError, match=r"pretrained_cfg must be a mapping, found 'a' \(str"
    ):
        find_backbone(nn.Sequential(conv(3, 8)), pretrained_cfg="a")


def test_a_network_without_downsampling_may_return_a_map():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    assert find_backbone(model, input_size=(8, 8)).feature_map.size == (8, 8)


def pooled(classes=5):
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes))


OWN = {
    "straight": (nn.Sequential(conv(3, 8), pooled()), "0", 8),
    "inside a wrapper": (nn.Sequential(nn.Sequential(conv(3, 8), pooled())), "0.0", 8),
    "body that pools": (
        nn.Sequential(conv(3, 4), nn.Sequential(conv(4, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten())),
        "1.0",
        8,
    ),
    "pool of fixed size": (
        nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(72, 5)),
        "0",
        8,
    ),
    "map of classes": (
        nn.Sequential(conv(3, 8), nn.Conv2d(8, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        "0",
        8,
    ),
    "without a head": (nn.Sequential(conv(3, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()), "0", 8),
    "no pool": (nn.Sequential(conv(3, 8), conv(8, 6)), "1", 6),
}


@pytest.mark.parametrize("name", OWN)
def test_the_last_map_of_a_model_of_ones_own(name):
    model, at, channels = OWN[name]
    assert find_last_feature_map(model, (3, 32, 32)) == at
    found = find_backbone(model, input_size=(32, 32)).feature_map
    assert (found.at, found.channels, found.source) == (at, channels, Source.TRUNCATED)


def test_a_pool_of_fixed_size_that_is_a_function():
    class Pools(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)

        def forward(self, x):
            return F.adaptive_avg_pool2d(self.conv(x), 2).flatten(1)

    assert find_backbone(Pools(), input_size=(8, 8)).feature_map.at == "conv"


def test_the_model_is_not_changed():
    model = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), pooled()).train()
    before = [buffer.clone() for buffer in model.buffers()]
    state = torch.get_rng_state()
    assert find_last_feature_map(model, (3, 32, 32)) == "1"
    assert all(module.training for module in model.modules())
    assert all(map(torch.equal, model.buffers(), before))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_model_without_a_map():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    with pytest.raises(ModelError, match=r"nothing on the way to its output, a tensor \(1, 5\)"):
        find_last_feature_map(model, (3, 32, 32))
