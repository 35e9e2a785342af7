"""Insertion into networks of torchvision, timm, segmentation-models-pytorch and MONAI."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import detection, resnet18, segmentation, video
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone

from softattn import (
    ModelError,
    SoftAttention,
    SoftAttention3d,
    capture_maps,
    insert_attention,
    remove_attention,
)
from softattn.insertion.residual import GatedBlock, ResidualAttention

timm = pytest.importorskip("timm", reason="needs softattn[timm]")

IMAGES = (2, 3, 64, 64)
VIDEO = (2, 3, 4, 32, 32)


def fpn() -> nn.Module:
    return resnet_fpn_backbone(backbone_name="resnet18", weights=None, trainable_layers=5)


def faster_rcnn() -> nn.Module:
    return detection.FasterRCNN(fpn(), 3, min_size=64, max_size=64, box_score_thresh=0.0)


def retinanet() -> nn.Module:
    return detection.RetinaNet(fpn(), 3, min_size=64, max_size=64, score_thresh=0.0)


def mask_rcnn() -> nn.Module:
    sizes = {"min_size": 64, "max_size": 64, "box_detections_per_img": 4}
    return detection.MaskRCNN(fpn(), 3, box_score_thresh=0.0, **sizes)


def deeplab() -> nn.Module:
    return segmentation.deeplabv3_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=3
    )


def fcn() -> nn.Module:
    getter = torch.nn.Sequential(*list(resnet18().children())[:-2])
    return segmentation.FCN(Named(getter), segmentation.fcn.FCNHead(512, 3))


class Named(nn.Module):
    """Backbone as torchvision's segmentation models expect it: its output is a dictionary."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"out": self.body(x)}


def swin3d() -> nn.Module:
    return video.SwinTransformer3d([2, 4, 4], 12, [1, 1], [2, 2], [2, 4, 4], num_classes=3)


def smp(name: str, **kwargs: Any) -> nn.Module:
    models = pytest.importorskip("segmentation_models_pytorch", reason="not installed")
    return getattr(models, name)("resnet18", encoder_weights=None, **kwargs)


def monai(name: str, **kwargs: Any) -> nn.Module:
    networks = pytest.importorskip("monai.networks.nets", reason="not installed")
    return getattr(networks, name)(spatial_dims=3, in_channels=1, out_channels=2, **kwargs)


class Excitation(nn.Module):
    """Squeeze and excitation for any number of spatial dimensions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.linear(x.flatten(2).mean(-1)).sigmoid()
        return x * scale.unflatten(1, (-1, *[1] * (x.ndim - 2)))


# Network, names of modules, block, shape of the input.
Case = tuple[Callable[[], nn.Module], list[str], Any, tuple[int, ...]]
NETWORKS: dict[str, Case] = {
    # The default attention, in three dimensions
    "r3d_18": (video.r3d_18, ["stem", "layer4"], None, VIDEO),
    "mc3_18": (video.mc3_18, ["layer1", "layer3"], None, VIDEO),
    "r2plus1d_18": (video.r2plus1d_18, ["layer2", "layer3"], Excitation, VIDEO),
    "swin3d": (swin3d, ["features.0", "features.2"], None, (2, 3, 4, 32, 32)),
    "monai DenseNet121": (
        partial(monai, "DenseNet121", init_features=8, growth_rate=4),
        ["features.denseblock1", "features.denseblock3"],
        None,
        (2, 1, 32, 32, 32),
    ),
    "monai SegResNet": (
        partial(monai, "SegResNet", init_filters=8),
        ["down_layers.2", "up_layers.0"],
        Excitation,
        (2, 1, 16, 16, 16),
    ),
    "monai UNet": (
        partial(monai, "UNet", channels=(4, 8), strides=(2,)),
        ["model.0"],
        SoftAttention3d,
        (2, 1, 16, 16, 16),
    ),
    # Other attention, in images
    "resnet18": (resnet18, ["layer1", "layer4"], "se", IMAGES),
    "convnext": (
        partial(timm.create_model, "test_convnext"), ["stages.1", "stages.3"], "cbam", IMAGES
    ),
    "mambaout": (partial(timm.create_model, "mambaout_femto"), ["stages.2"], "eca", IMAGES),
    "vit": (
        partial(timm.create_model, "test_vit", img_size=64),
        ["blocks.2", "blocks.4"],
        SoftAttention,
        IMAGES,
    ),
    "fasterrcnn": (faster_rcnn, ["backbone.body.layer3", "backbone.fpn.layer_blocks.0"], "se", IMAGES),
    "maskrcnn": (mask_rcnn, ["backbone.body.layer2"], "gc", IMAGES),
    "retinanet": (retinanet, ["backbone.body.layer3", "backbone.fpn.inner_blocks.1"], "eca", IMAGES),
    "deeplabv3": (deeplab, ["backbone.6", "classifier.0"], "cbam", IMAGES),
    "fcn": (fcn, ["backbone.body.6", "classifier.1"], "coord", IMAGES),
    "smp Unet": (partial(smp, "Unet"), ["encoder.layer3", "decoder.blocks.0"], "cbam", IMAGES),
    "smp FPN": (partial(smp, "FPN"), ["encoder.layer4", "decoder.p4"], "se", IMAGES),
    "smp DeepLabV3Plus": (partial(smp, "DeepLabV3Plus"), ["decoder.aspp.0.convs.0", "encoder.layer2"], "eca", IMAGES),
    "smp UnetPlusPlus": (partial(smp, "UnetPlusPlus"), ["encoder.layer4"], SoftAttention, IMAGES),
    "smp Segformer": (partial(smp, "Segformer"), ["encoder.layer1", "decoder.fuse_stage"], None, IMAGES),
}  # fmt: skip


def tensors(output: Any) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    else:
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(part)


def bits(output: Any) -> list[bytes]:
    return [x.detach().contiguous().numpy().tobytes() for x in tensors(output)]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_computes_the_same_until_it_is_trained(name: str) -> None:
    build, names, block, shape = NETWORKS[name]
    model, x = build().eval(), torch.rand(shape)
    keys, output = list(model.state_dict()), bits(model(x))
    assert output

    insert_attention(model, names, block=block, example=x)

    after = model(x)
    assert bits(after) == output
    assert [key for key in model.state_dict() if "soft_attention" not in key] == keys
    inserted = [m for m in model.modules() if isinstance(m, ResidualAttention | GatedBlock)]
    assert len(inserted) == len(names)
    if any(y.requires_grad for y in tensors(after)):
        sum(y.sum() for y in tensors(after) if y.requires_grad).backward()
    for attention in inserted:
        assert attention.gamma.grad is not None
        assert attention.gamma.grad.isfinite().all()
        assert attention.gamma.grad.any()
        with torch.no_grad():
            attention.gamma.fill_(100.0)
    assert bits(model(x)) != output
    remove_attention(model)
    assert list(model.state_dict()) == keys
    assert bits(model(x)) == output


def test_a_detector_whose_images_differ_in_size() -> None:
    model = faster_rcnn().eval()
    images = [torch.rand(3, 40, 60), torch.rand(3, 60, 40)]
    output = bits(model(images))
    insert_attention(model, "backbone.body.layer3", example=(images,))
    assert bits(model(images)) == output


def test_maps_of_volumes_are_captured() -> None:
    model = insert_attention(video.r3d_18().eval(), "layer3", num_maps=3, kernel_size=(1, 3, 3))
    with capture_maps(model) as maps:
        model(torch.randn(1, 3, 8, 32, 48))
    assert {n: tuple(m.shape) for n, m in maps.items()} == {
        "layer3.1.soft_attention": (1, 3, 2, 4, 6)
    }
    assert model.layer3[1].soft_attention.weight.shape == (3, 256, 1, 3, 3)


def test_maps_of_a_block_are_captured() -> None:
    model = insert_attention(video.r3d_18().eval(), "layer3", block=SoftAttention3d)
    with capture_maps(model) as maps:
        model(torch.randn(1, 3, 4, 16, 16))
    assert list(maps) == ["layer3.1.soft_attention.block"]


def test_attention_for_images_does_not_fit_volumes() -> None:
    with pytest.raises(ModelError, match=r"at 'layer3': applying SEModule to a map \(2, 256, 4,"):
        insert_attention(video.r3d_18(), "layer3", block="se")


@pytest.mark.usefixtures("fresh_compiler")
def test_compile_and_export_of_volumes() -> None:
    model = nn.Sequential(
        nn.Conv3d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv3d(4, 3, 1), nn.Flatten(2)
    ).eval()
    x = torch.randn(2, 2, 6, 10, 8)
    insert_attention(model, "1", example=x, gamma=0.5)
    insert_attention(model, "0", block=Excitation, example=x, gamma=0.5)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), model(x))
    auto = torch.export.Dim.AUTO
    shapes = [{0: auto, 2: auto, 3: auto, 4: auto}]
    program = torch.export.export(model, (x,), dynamic_shapes=shapes).module()
    for each in (x, torch.randn(3, 2, 4, 12, 6)):
        torch.testing.assert_close(program(each), model(each))
    traced = torch.fx.symbolic_trace(model)
    torch.testing.assert_close(traced(x), model(x))
