import copy
from functools import partial
from typing import get_overloads

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torchvision.models import SwinTransformer, VisionTransformer
from torchvision.models.feature_extraction import create_feature_extractor

from softattn import (
    ArgumentTypeError,
    ModelError,
    ShapeError,
    SoftAttentionBlock,
    SoftAttentionClassifier,
    wrap_backbone,
)
from softattn.models import ClassifierHead

timm = pytest.importorskip("timm", reason="needs softattn[timm]")


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 64)


@pytest.mark.parametrize("block", ["se", "eca", "cbam", "coord", nn.Identity])
def test_other_attentions_are_built_at_the_same_place(block, x):
    model = wrap_backbone("test_resnet", 3, block=block).eval()
    features = model.backbone(x)
    assert torch.equal(model.forward_features(x), model.attention(features))
    with pytest.raises(
        ModelError, match=r"returning attention maps: the forward method of \w+ has no"
    ):
        model(x, return_maps=True)


def test_a_head_of_ones_own(x):
    def build(in_channels, num_classes):
        return nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(in_channels, 10),
            nn.Linear(10, num_classes),
        )

    model = wrap_backbone("test_resnet", 3, head=build).eval()
    assert model(x).shape == (2, 3)
    assert model.head_hidden_size == 10
    with pytest.raises(
        ModelError, match="the forward method of Sequential has no argument pre_logits"
    ):
        model.forward_head(model.forward_features(x), pre_logits=True)
    model.reset_classifier(4)
    assert model(x).shape == (2, 4)
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.reset_classifier(2, head=lambda c, n: nn.Sequential(nn.Conv2d(c, n, 1), *pooled))
    assert model(x).shape == (2, 2)
    with pytest.raises(
        ModelError, match="getting the classifier: the head, Sequential, contains no"
    ):
        model.get_classifier()
    with pytest.raises(
        ModelError, match=r"resetting.*reset_classifier\(num_classes, head=\.\.\.\)"
    ):
        model.reset_classifier(4)


def test_the_flatten_head_requires_its_size(x):
    model = wrap_backbone("test_resnet", 3, head="flatten", input_size=(64, 96)).eval()
    assert model(torch.randn(2, 3, 64, 96)).shape == (2, 3)
    with pytest.raises(ShapeError, match=r"built for 2 x 3 positions, found 2 x 2.*head=\"pool\""):
        model(x)


def test_dropout_before_the_classifier(x):
    model = wrap_backbone("test_resnet", 3, drop_rate=0.5).eval()
    features = model.forward_features(x)
    hidden = model.forward_head(features, pre_logits=True)
    model.train()
    dropped = model.forward_head(features, pre_logits=True)
    assert torch.equal(dropped[dropped != 0], 2 * hidden[dropped != 0])


def test_a_frozen_backbone_stays_so():
    model = wrap_backbone("test_resnet", 3, drop_path_rate=0.5)
    model.backbone.model.conv1.requires_grad_(False)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    model.freeze_backbone()
    model.freeze_backbone()
    model.train()
    before = copy.deepcopy(model.backbone.state_dict())
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert all(torch.equal(v, before[k]) for k, v in model.backbone.state_dict().items())
    assert all(p.grad is None for p in model.backbone.parameters())
    assert model.attention.weight.grad is not None
    assert model.attention.training
    assert not any(module.training for module in model.backbone.modules())
    copied = copy.deepcopy(model).train()
    assert not copied.backbone.training
    model.unfreeze_backbone()
    model.unfreeze_backbone()
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(module.training for module in model.modules())


class PassesOn(nn.Module):
    """Accepts any arguments and passes them on, as wrappers of PEFT do."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, x, *args, **kwargs):
        return self.module(x, *args, **kwargs)


@pytest.mark.parametrize(
    "wrapper",
    [PassesOn, checkpoint_wrapper, partial(torch.compile, backend="eager")],
    ids=["PEFT", "checkpoint", "compile"],
)
def test_wrapped_parts_take_their_arguments(wrapper, x, fresh_compiler):
    model = wrap_backbone("test_resnet", 3).eval()
    expected = model(x, return_maps=True)
    features = model.forward_features(x)
    hidden = model.forward_head(features, pre_logits=True)
    model.attention = wrapper(model.attention)
    model.head = wrapper(model.head)
    scores, maps = model(x, return_maps=True)
    torch.testing.assert_close((scores, maps), expected)
    torch.testing.assert_close(model.forward_head(features, pre_logits=True), hidden)


def test_the_types_of_forward_depend_on_return_maps():
    assert len(get_overloads(SoftAttentionClassifier.forward)) == 3


@pytest.mark.parametrize(("size", "inputs"), [(None, 64), ((4, 5), 64 * 20)])
def test_classifier_head(size, inputs):
    head = ClassifierHead(64, 7, size)
    x = torch.randn(2, 64, 4, 5)
    hidden = head(x, pre_logits=True)
    assert hidden.shape == (2, inputs)
    assert torch.equal(hidden, x.mean((2, 3)) if size is None else x.flatten(1))
    assert torch.equal(head(x), head.fc(hidden))


def test_the_size_of_the_classifier_is_checked():
    model = wrap_backbone("test_resnet", 3)
    with pytest.raises(ValueError, match=r"resetting the classifier: num_classes must be .* -1"):
        model.reset_classifier(-1)


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (lambda c, n: nn.Linear(c + 1, n), r"the head Linear to a .* it raises RuntimeError: mat1"),
        (lambda c, n: nn.Sequential(nn.Flatten(), nn.LazyLinear(n)), None),
        (
            lambda c, n: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, n + 1)),
            r"expected scores \(B, 3\), found a tensor \(1, 4\)",
        ),
    ],
)
def test_heads_that_do_not_fit_are_found_when_the_model_is_built(head, text, x):
    if text is None:
        assert wrap_backbone("test_resnet", 3, head=head, input_size=64).eval()(x).shape == (2, 3)
        return
    with pytest.raises(ModelError, match=text):
        wrap_backbone("test_resnet", 3, head=head, input_size=64)


def test_a_new_head_must_be_a_module():
    model = wrap_backbone("test_resnet", 3)
    before = model.head
    for head in (lambda c, n: None, "pool", nn.Linear(3, 3)):
        with pytest.raises(ArgumentTypeError, match="head must be a function that returns a torch"):
            model.reset_classifier(3, head=head)
    assert model.head is before


@pytest.mark.parametrize(
    ("head", "text"),
    [
        (lambda c, n: nn.Sequential(nn.Flatten(), nn.Linear(7, n)), "it raises RuntimeError"),
        (lambda c, n: ClassifierHead(c + 1, n), "it raises RuntimeError"),
        (lambda c, n: ClassifierHead(c, n + 1), r"expected scores \(B, 3\), found .*4"),
        (lambda c, n: ClassifierHead(c, n, size=(5, 5)), "it raises ShapeError"),
    ],
)
def test_a_new_head_must_fit(head, text):
    model = wrap_backbone("test_resnet", 2, input_size=64)
    before = model.head
    with pytest.raises(ModelError, match=f"applying the head .* feature map .*: {text}"):
        model.reset_classifier(3, head=head)
    assert (model.head, model.num_classes) == (before, 2)
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 2)


def test_the_classifier_is_the_layer_with_an_output_for_each_class():
    class Head(nn.Module):
        def __init__(self, in_channels, num_classes):
            super().__init__()
            self.fc = nn.Linear(16, num_classes)
            self.hidden = nn.Linear(in_channels, 16)

        def forward(self, x):
            return self.fc(self.hidden(x.mean((2, 3))).relu())

    model = wrap_backbone("test_resnet", 3, head=Head)
    assert model.get_classifier() is model.head.fc
    model.reset_classifier(16)
    x = torch.randn(2, 3, 64, 64)
    assert (model(x).shape, model.head_hidden_size) == ((2, 16), 16)


def test_a_classifier_that_a_tool_wraps_can_be_reset():
    class Wrapper(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return self.layer(x)

    model = wrap_backbone("test_resnet", 3, head="flatten", input_size=64)
    before = model.head_hidden_size
    model.head.fc = Wrapper(model.head.fc)
    assert model.head_hidden_size == before > model.num_features
    model.reset_classifier(5)
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 5)


def test_a_lazy_classifier_can_be_reset():
    def head(in_channels, num_classes):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(num_classes))

    x = torch.randn(2, 3, 64, 64)
    for runs in (False, True):
        model = wrap_backbone("test_resnet", 3, head=head)
        if runs:
            model(x)
            assert model.head_hidden_size == model.num_features
        model.reset_classifier(5)
        assert model(x).shape == (2, 5)


def tiny_vit():
    return VisionTransformer(64, 16, num_layers=1, num_heads=2, hidden_dim=16, mlp_dim=16)


def tiny_swin():
    return SwinTransformer([4, 4], 8, depths=[1, 1], num_heads=[1, 2], window_size=[4, 4])


@pytest.mark.parametrize(
    ("build", "options"),
    [
        (lambda: "test_resnet", {}),
        (lambda: "test_resnet", {"head": "flatten"}),
        (lambda: "test_resnet", {"block": SoftAttentionBlock}),
        (tiny_vit, {}),
        (tiny_swin, {}),
    ],
)
def test_torch_fx_traces_wrapped_models(build, options):
    model = wrap_backbone(build(), 3, input_size=64, **options).eval()
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))
    found = create_feature_extractor(model, ["backbone", "attention"])(x)
    assert torch.equal(found["backbone"], model.backbone(x))
    assert torch.equal(found["attention"], model.forward_features(x))


@pytest.mark.parametrize("size", [None, (6, 6)])
def test_torch_fx_traces_the_call_without_maps(size):
    head = ClassifierHead(4, 3, size)
    model = SoftAttentionClassifier(nn.Conv2d(3, 4, 3), nn.Identity(), head, 4, 3).eval()
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(torch.fx.symbolic_trace(model)(x), model(x))


@pytest.mark.parametrize("training", [True, False])
def test_a_new_head_is_in_the_mode_of_the_model(training):
    model = wrap_backbone("torchvision:resnet18", 3, input_size=32).train(training)
    model.reset_classifier(2, head=lambda c, n: nn.Sequential(nn.Dropout(), ClassifierHead(c, n)))
    model.reset_classifier(4, head=lambda c, n: ClassifierHead(c, n, drop_rate=0.5))
    model.reset_classifier(5)
    assert {module.training for module in model.modules()} == {training}
