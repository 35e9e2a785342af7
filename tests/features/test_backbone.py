import copy
import logging

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from softattn import ModelError, find_backbone
from softattn.errors import ArgumentError, ArgumentTypeError
from softattn.features.backbone import Source
from softattn.features.layout import Layout, TokenGrid

timm = pytest.importorskip("timm", reason="needs softattn[timm]")


def tokens_to_map(x, grid, num_prefix=0):
    return x[:, num_prefix:].transpose(1, 2).unflatten(2, grid)


# Name, arguments, and the output of the model's own methods, converted to (B, C, H, W).
CONTRACT = [
    ("test_resnet", {}, lambda m, x: m.forward_features(x)),
    ("test_efficientnet", {}, lambda m, x: m.forward_features(x)),
    ("test_mambaout", {}, lambda m, x: m.forward_features(x).permute(0, 3, 1, 2)),
    ("test_vit", {}, lambda m, x: tokens_to_map(m.forward_features(x), (10, 10), 1)),
    (
        "deit_tiny_distilled_patch16_224",
        {"depth": 1, "img_size": (32, 64)},
        lambda m, x: tokens_to_map(m.forward_features(x), (2, 4), 2),
    ),
    (
        "cait_xxs24_224",
        {"depth": 1, "img_size": 64},
        lambda m, x: tokens_to_map(m.forward_features(x), (4, 4), 1),
    ),
    ("levit_128s", {}, lambda m, x: tokens_to_map(m.forward_features(x), (4, 4))),
    (
        "pit_ti_224",
        {},
        lambda m, x: m.forward_intermediates(x, 1, norm=True, intermediates_only=True)[-1],
    ),
]


@pytest.mark.parametrize(("name", "kwargs", "expected"), CONTRACT, ids=lambda v: str(v)[:20])
def test_features_are_the_models_own_to_the_last_bit(name, kwargs, expected):
    model = timm.create_model(name, **kwargs).eval()
    untouched = copy.deepcopy(model)
    backbone = find_backbone(model)
    x = torch.randn(2, *backbone.feature_map.input_size)
    with torch.no_grad():
        wanted, found = expected(untouched, x), backbone(x)
    assert torch.equal(found, wanted)
    assert found.shape[1:] == (backbone.feature_map.channels, *backbone.feature_map.size)


# The module whose output is the map, in each family of torchvision. A hook reads the expected map.
TORCHVISION = {
    "alexnet": "features",
    "convnext_tiny": "features",
    "efficientnet_b0": "features",
    "googlenet": "inception5b",
    "mnasnet0_5": "layers",
    "mobilenet_v3_small": "features",
    "regnet_y_400mf": "trunk_output",
    "resnet18": "layer4",
    "shufflenet_v2_x0_5": "conv5",
    "squeezenet1_1": "features",
    "swin_t": "permute",
    "vgg11_bn": "features",
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_map_is_what_is_pooled(name):
    kwargs = {"init_weights": False} if name == "googlenet" else {}
    model = torchvision.models.get_model(name, **kwargs).eval()
    maps = []
    handle = model.get_submodule(TORCHVISION[name]).register_forward_hook(
        lambda module, args, output: maps.append(output.clone())
    )
    x = torch.randn(2, 3, 128, 160)
    with torch.no_grad():
        model(x)
        handle.remove()
        backbone = find_backbone(model, input_size=(128, 160))
        assert torch.equal(backbone(x), maps[0])
    kept, whole = backbone.model.state_dict(), model.state_dict()
    gone = {key.split(".")[0] for key in whole} & set(backbone.dropped)
    assert set(kept) == {key for key in whole if key.split(".")[0] not in gone}
    assert gone


def test_densenets_map_is_after_the_last_relu():
    model = torchvision.models.DenseNet(8, (2, 2), 16).eval()
    backbone = find_backbone(model, input_size=(64, 64))
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(backbone(x), F.relu(model.features(x)))


def test_tokens_of_torchvisions_vit():
    model = torchvision.models.VisionTransformer(32, 8, 1, 2, 16, 32).eval()
    nn.init.normal_(model.class_token)
    backbone = find_backbone(model)
    assert backbone.feature_map.input_size == (3, 32, 32)
    assert backbone.feature_map.map_layout.num_prefix_tokens == 1
    x = torch.randn(2, 3, 32, 32)
    tokens = model.encoder(
        torch.cat([model.class_token.expand(2, -1, -1), model._process_input(x)], 1)
    )
    assert torch.equal(backbone(x), tokens_to_map(tokens, (4, 4), 1))


@pytest.mark.parametrize(
    ("name", "at", "layout", "channels", "size"),
    [
        ("test_resnet", "layer3", Layout.NCHW, 192, (10, 10)),
        ("test_vit", "blocks.2", Layout.NLC, 64, (10, 10)),
        ("test_mambaout", "stages.1", Layout.NHWC, 32, (20, 20)),
    ],
)
def test_a_named_module_of_each_layout(name, at, layout, channels, size):
    model = timm.create_model(name).eval()
    found = []
    handle = model.get_submodule(at).register_forward_hook(
        lambda module, args, output: found.append(output.clone())
    )
    x = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        model(x)
    handle.remove()
    backbone = find_backbone(model, at)
    assert backbone.feature_map.map_layout.layout is layout
    assert backbone(x).shape == (2, channels, *size)
    values, wanted = backbone(x).flatten().sort()[0], found[0]
    wanted = wanted[:, 1:] if layout is Layout.NLC else wanted
    assert torch.equal(values, wanted.flatten().sort()[0])


def test_other_input_sizes():
    backbone = find_backbone(timm.create_model("test_vit", dynamic_img_size=True).eval())
    assert backbone(torch.randn(1, 3, 96, 64)).shape == (1, 64, 6, 4)
    backbone = find_backbone(timm.create_model("test_resnet").eval())
    assert backbone(torch.randn(0, 3, 96, 64)).shape == (0, 96, 3, 2)


@pytest.mark.parametrize("kwargs", [{"in_chans": 1}, {"in_chans": 5}])
def test_images_of_other_channels(kwargs):
    found = find_backbone(timm.create_model("test_resnet", **kwargs)).feature_map
    assert found.input_size[0] == kwargs["in_chans"]


def test_a_convolution_after_a_rearrangement_says_nothing_of_the_image():
    model = nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3))
    assert find_backbone(model, input_size=(32, 32)).feature_map.input_size == (3, 32, 32)


class Features(nn.Module):
    """Model with timm's interface, and modules that its map doesn't depend on."""

    def __init__(self, gives=lambda x: x):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.attn = nn.MultiheadAttention(8, 2, batch_first=True)
        self.wasted = nn.Linear(8, 8)
        self.token = nn.Parameter(torch.zeros(8))
        self.heads = nn.ModuleList([nn.Linear(8, 5), nn.Linear(8, 5)])
        self.head = nn.Linear(8, 5)
        self.gives = gives

    def forward_features(self, x):
        x = self.conv(x)
        tokens = x.flatten(2).transpose(1, 2)
        self.wasted(tokens)
        tokens = self.attn(tokens, tokens, tokens)[0]
        return self.gives(tokens.transpose(1, 2).unflatten(2, x.shape[2:]))

    def forward(self, x):
        return self.head(self.forward_features(x).mean((2, 3)))


def test_what_is_not_needed_is_dropped_and_said(caplog):
    with caplog.at_level(logging.INFO, logger="softattn"):
        backbone = find_backbone(Features(), input_size=(8, 8))
    assert backbone.dropped == ("heads.0", "heads.1", "head")
    assert caplog.messages == [
        "Features: dropped heads.0, heads.1, head, which the feature map doesn't depend on."
    ]
    assert len(backbone.model.heads) == 2
    # out_proj isn't called by MultiheadAttention, which reads its weight.
    assert "model.attn.out_proj.weight" in backbone.state_dict()


def test_parameters_that_are_left_without_use_are_frozen():
    backbone = find_backbone(Features(), input_size=(8, 8))
    frozen = {name for name, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"model.wasted.weight", "model.wasted.bias", "model.token"}
    backbone.train()(torch.randn(2, 3, 8, 8)).sum().backward()
    without = {name for name, p in backbone.named_parameters() if p.grad is None}
    assert without == frozen


def test_parameters_that_the_user_froze_stay():
    model = Features().requires_grad_(False)
    backbone = find_backbone(model, input_size=(8, 8))
    assert not any(p.requires_grad for p in backbone.parameters())
    assert backbone.dropped == ("heads.0", "heads.1", "head")


def test_a_reentrant_checkpoint_hides_what_is_used_so_nothing_is_dropped():
    class Hidden(Features):
        def forward_features(self, x):
            run = super().forward_features
            return torch.utils.checkpoint.checkpoint(run, x.requires_grad_(), use_reentrant=True)

    backbone = find_backbone(Hidden(), input_size=(8, 8))
    assert backbone.dropped == ()
    assert all(p.requires_grad for p in backbone.parameters())


def test_auxiliary_heads_are_dropped_and_said(caplog):
    model = torchvision.models.googlenet(init_weights=False)
    backbone = find_backbone(model, input_size=(64, 64))
    assert caplog.messages == [
        "GoogLeNet: dropped the auxiliary heads aux1, aux2, so training has no auxiliary outputs."
    ]
    assert backbone.train()(torch.randn(2, 3, 64, 64)).shape == (2, 1024, 2, 2)


def listed(x):
    return [x, x.mean((2, 3))]


class Intermediates(Features):
    """Model whose features are a list. It returns intermediates if `can` says so."""

    def __init__(self, can):
        super().__init__(listed)
        self.can = can
        self.seen = []

    def forward_intermediates(self, x, indices, norm, output_fmt, intermediates_only):
        self.seen.append(norm)
        if norm not in self.can:
            raise ValueError("no such maps")
        return [self.conv(x) + norm]


@pytest.mark.parametrize(
    ("can", "source"),
    [
        ((True, False), Source.NORMED_INTERMEDIATES),
        ((False,), Source.INTERMEDIATES),
    ],
)
def test_intermediates_are_asked_after_features(can, source):
    model = Intermediates(can)
    backbone = find_backbone(model, input_size=(8, 8))
    assert backbone.feature_map.source is source
    assert model.seen == []  # what the model noted in the dry run is forgotten
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(backbone(x), model.conv(x) + can[0])


REFUSED = {
    "three ways": (
        lambda: Intermediates(()),
        {"input_size": (8, 8)},
        r"returns a list of 2: .*; forward_intermediates, with the last norm raises ValueError: no "
        r"such maps; forward_intermediates raises ValueError: no such maps\. Expected a map",
    ),
    "a dict": (
        lambda: Features(lambda x: {"map": x, "more": None}),
        {"input_size": (8, 8)},
        r"forward_features returns a dict with map, more\. Expected a",
    ),
    "nothing": (
        lambda: Features(lambda x: None),
        {"input_size": (8, 8)},
        r"forward_features returns a NoneType\. Expected a",
    ),
    "another size, at a name": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(30, 30), nn.ReLU()),
        {"at": "2"},
        r"running Sequential on an input of \(3, 224, 224\): RuntimeError.*pass input_size",
    ),
    "a list": (
        lambda: Features(listed),
        {"input_size": (8, 8)},
        r"forward_features returns a list of 2: a tensor \(1, 8, 4, 4\), a tensor \(1, 8\)\. Expec",
    ),
    "a vector": (
        lambda: Features(lambda x: x.mean((2, 3))),
        {"input_size": (8, 8)},
        r"forward_features returns a tensor \(1, 8\)\. Expected a map.*at= with the name",
    ),
    "no module": (
        lambda: Features(),
        {"at": "atn", "input_size": (8, 8)},
        r"truncating Features at 'atn': there is no module or node of this name\. Closest: attn",
    ),
    "no map there": (
        lambda: Features(),
        {"at": "head", "input_size": (8, 8)},
        r"Features at 'head': it returns a tensor \(1, 5\) for an input of \(3, 8, 8\)\. Exp",
    ),
    "a tuple there": (
        lambda: Features(),
        {"at": "attn", "input_size": (8, 8)},
        r"at 'attn': it returns a tuple of 2: a tensor \(1, 16, 8\), a tensor \(1, 16, 16\)",
    ),
    "another size": (
        lambda: timm.create_model("vit_tiny_patch16_224", depth=1),
        {"input_size": (32, 32)},
        r"running VisionTransformer on an input of \(3, 32, 32\): AssertionError: .*If it needs an "
        r"input of another size, pass input_size=\(C, H, W\)",
    ),
    "another size, traced": (
        lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8 * 30 * 30, 5)),
        {},
        r"running Sequential on an input of \(3, 224, 224\): RuntimeError.*pass input_size",
    ),
    "too small": (
        lambda: torchvision.models.resnet18(),
        {"input_size": (2, 2)},
        r"last feature map of ResNet: nothing on the way to its output, a tensor \(1, 1000\), is a",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused_leaves_the_model_as_it_was(name):
    build, arguments, message = REFUSED[name]
    model = build().train()
    next(model.children()).eval()
    next(model.parameters()).requires_grad_(False)
    model.register_forward_hook(print)
    before, state = fingerprint(model), copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    with pytest.raises(ModelError, match=message):
        find_backbone(model, **arguments)
    assert fingerprint(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def fingerprint(model):
    """Return all properties of a model that could change, except the values of its tensors."""
    return [
        (
            name,
            id(module),
            module.training,
            [(key, id(p), p.requires_grad, p.grad) for key, p in module.named_parameters()],
            sorted(set(vars(module)) - {"training"}),
            [list(getattr(module, key)) for key in vars(module) if key.endswith("hooks")],
        )
        for name, module in model.named_modules()
    ]


def test_finding_changes_nothing_but_what_it_drops():
    model = timm.create_model("test_resnet").train()
    model.layer1.eval()
    before = [entry for entry in fingerprint(model) if entry[0] and not entry[0].startswith("fc")]
    random = torch.get_rng_state()
    backbone = find_backbone(model)
    assert [entry for entry in fingerprint(backbone.model) if entry[0] not in ("", "fc")] == before
    assert torch.equal(torch.get_rng_state(), random)


def test_a_model_without_checkpointing_says_so():
    with pytest.raises(ModelError, match="of Features: it has no set_grad_checkpointing"):
        find_backbone(Features(), input_size=(8, 8)).set_grad_checkpointing()


@pytest.mark.parametrize("grad", [True, False])
def test_tables_that_evaluation_stores_are_not_left_behind(grad):
    model = timm.create_model("levit_128s").eval()
    with torch.set_grad_enabled(grad):
        find_backbone(model)
    copy.deepcopy(model)  # fails on tensors with a graph
    tables = [m.attention_bias_cache for m in model.modules() if hasattr(m, "attention_bias_cache")]
    assert tables
    assert not any(tables)


def test_tokens_in_another_order_than_the_models_own_map():
    # Hiera sorts its tokens by windows until the last stage, where there is one.
    model = timm.create_model("hiera_tiny_224", embed_dim=24).train()
    model.blocks[0].eval()
    modes = [module.training for module in model.modules()]
    state = copy.deepcopy(model.state_dict())
    random = torch.get_rng_state()
    message = (
        r"map of Hiera at 'blocks\.2': its output is not a feature map: its tokens are not "
        r"in the order of the model's own map of this stage\. Pass the name of another"
    )
    with pytest.raises(ModelError, match=message):
        find_backbone(model, at="blocks.2")
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random)
    backbone = find_backbone(model, at="blocks.11").eval()
    x = torch.randn(2, *backbone.feature_map.input_size)
    with torch.no_grad():
        found = backbone(x)
        [wanted] = model.eval().forward_intermediates(x, indices=1, intermediates_only=True)
    assert torch.equal(found, wanted)


def test_tokens_that_get_their_prefix_later():
    model = timm.create_model("cait_xxs24_224", depth=2, img_size=64)
    layout = find_backbone(model, at="blocks.0").feature_map.map_layout
    assert (layout.num_prefix_tokens, layout.grid) == (0, TokenGrid(4, 4, 16))
    assert find_backbone(model).feature_map.map_layout.num_prefix_tokens == 1


def test_print_says_where_the_map_is():
    backbone = find_backbone(torchvision.models.resnet18(), at="layer3")
    assert "256 x 14 x 14, forward, truncated, at='layer3'" in repr(backbone)
    assert backbone.feature_map.reduction == 16


def test_the_grid_of_a_patch_that_does_not_divide_the_image():
    model = timm.create_model(
        "vit_so400m_patch14_siglip_gap_384", depth=1, embed_dim=32, num_heads=2, device="meta"
    )
    found = find_backbone(model).feature_map
    assert (found.map_layout.grid, found.size) == (TokenGrid(27, 27, 14), (27, 27))


def test_a_name_is_no_model() -> None:
    with pytest.raises(ArgumentTypeError, match=r"expected a torch.nn.Module, found str\."):
        find_backbone("resnet18")


def test_models_of_volumes_are_for_insert_attention():
    for model in (nn.Sequential(nn.Conv3d(3, 4, 3), nn.ReLU()), torchvision.models.video.r3d_18()):
        with pytest.raises(
            ModelError, match=r"begins with a 3-D convolution.* insert_attention wor"
        ):
            find_backbone(model)


@pytest.mark.parametrize(
    ("size", "kind"),
    [
        (1.5, ArgumentTypeError),
        (object(), ArgumentTypeError),
        ("32", ArgumentTypeError),
        ((32, None), ArgumentTypeError),
        ((32,), ArgumentError),
        ((3, 3, 32, 32), ArgumentError),
        (0, ArgumentError),
    ],
)
def test_sizes_that_are_no_sizes_are_refused(size, kind):
    with pytest.raises(kind, match="input_size must be"):
        find_backbone(nn.Conv2d(3, 4, 3), input_size=size)


def test_a_size_may_be_one_number():
    backbone = find_backbone(torchvision.models.squeezenet1_1(), input_size=64)
    assert backbone.feature_map.input_size == (3, 64, 64)
