import copy
import io
import pickle
import socket
from functools import partial

import pytest
import torch
import torch.multiprocessing as mp
import torchvision
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from softattn import (
    ArgumentError,
    ArgumentTypeError,
    ModelError,
    SoftAttention,
    SoftAttentionBlock,
    SoftAttnError,
    capture_maps,
    find_backbone,
    wrap_backbone,
)

timm = pytest.importorskip("timm", reason="needs softattn[timm]")

# One of each way to a map: NCHW, NHWC, tokens, intermediates, traced, truncated at a name.
WAYS = {
    "NCHW": partial(wrap_backbone, "test_resnet", 3, num_maps=4),
    "NHWC": partial(wrap_backbone, "test_mambaout", 3, num_maps=4),
    "tokens": partial(wrap_backbone, "test_vit", 3, num_maps=4, img_size=64),
    "intermediates": partial(wrap_backbone, "pit_ti_224", 3, num_maps=4, img_size=64),
    "traced": partial(wrap_backbone, "torchvision:shufflenet_v2_x0_5", 3, num_maps=4),
    "truncated": partial(wrap_backbone, "test_efficientnet", 3, num_maps=4, at="blocks.3"),
    "truncated tokens": partial(
        wrap_backbone, "test_vit", 3, num_maps=4, at="blocks.1", img_size=64
    ),
    "the paper's": partial(
        wrap_backbone,
        "test_resnet",
        3,
        at="layer3",
        block=SoftAttentionBlock,
        head="flatten",
        input_size=64,
    ),
}


@pytest.fixture(params=WAYS)
def model(request):
    torch.manual_seed(0)
    return WAYS[request.param]().eval()


@pytest.fixture
def x():
    return torch.randn(2, 3, 64, 64)


def test_scores_and_maps(model, x):
    scores, maps = model(x, return_maps=True)
    assert scores.shape == (2, 3)
    assert torch.equal(model(x), scores)
    assert maps.ndim == 4
    assert min(maps.shape[2:]) > 1
    assert torch.allclose(maps.sum((2, 3)), torch.ones(maps.shape[:2]))
    with capture_maps(model) as captured:
        model(x)
    assert all(torch.equal(value, maps) for value in captured.values())
    assert len(captured) == 1


def test_timms_contract(model, x):
    features = model.forward_features(x)
    assert features.shape[1] == model.num_features
    assert torch.equal(model.forward_head(features), model(x))
    hidden = model.forward_head(features, pre_logits=True)
    assert hidden.shape == (2, model.head_hidden_size)
    assert torch.equal(model.get_classifier()(hidden), model(x))
    model.reset_classifier(5)
    assert (model.num_classes, model(x).shape) == (5, (2, 5))
    model.reset_classifier(0)
    assert isinstance(model.get_classifier(), nn.Identity)
    assert torch.equal(model(x), hidden)
    model.reset_classifier(4)
    assert model(x).shape == (2, 4)
    assert model.wrap_arguments is None or model.wrap_arguments["num_classes"] == 4


@pytest.mark.parametrize("again", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_copies_compute_the_same_and_are_independent(model, x, again):
    other = again(model)
    assert torch.equal(other(x), model(x))
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    assert not torch.equal(other(x), model(x))


def test_state_goes_both_ways_and_through_a_file(model, x):
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.normal_()
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), model(x))


@pytest.mark.parametrize("way", ["NCHW", "NHWC", "tokens", "truncated"])
def test_the_originals_weights_load_under_their_own_names(way, x):
    wrapped = WAYS[way]()
    name, kwargs = wrapped.wrap_arguments["backbone"], {"img_size": 64} if "tokens" in way else {}
    original = timm.create_model(name.partition(":")[2], **kwargs)
    problems = wrapped.backbone.model.load_state_dict(original.state_dict(), strict=False)
    assert not problems.missing_keys
    assert all(
        key.startswith(tuple(f"{name}." for name in wrapped.backbone.dropped))
        for key in problems.unexpected_keys
    )


@pytest.mark.parametrize("way", ["NHWC", "tokens", "truncated", "the paper's"])
def test_compile_in_one_graph(way, x):
    torch.compiler.reset()
    model = WAYS[way]().eval()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    scores, maps = compiled(x, return_maps=True)
    expected = model(x, return_maps=True)
    assert torch.equal(scores, expected[0])
    assert torch.equal(maps, expected[1])
    assert torch.equal(compiled(x), expected[0])


def test_export_with_a_batch_of_any_size(model, x):
    shapes = {"x": {0: torch.export.Dim("batch", max=4096)}}
    program = torch.export.export(model, (x,), dynamic_shapes=shapes)
    more = torch.randn(5, 3, 64, 64)
    torch.testing.assert_close(program.module()(more), model(more))


def test_every_parameter_is_trained(model, x):
    model.train()(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, name


def test_gradient_checkpointing_changes_no_gradient(model, x):
    if isinstance(model.backbone.model, timm.models.PoolingVisionTransformer):
        with pytest.raises(ModelError, match=r"VisionTransformer: the model rejects it: .* supp"):
            model.set_grad_checkpointing()
        return
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(x).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_channels_last_and_half_precision(model, x):
    expected = model(x)
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found = last(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    half = copy.deepcopy(model).bfloat16()(x.bfloat16())
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), expected, rtol=0.1, atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(model(x).float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("batch", [0, 1])
def test_batches_of_none_and_one(model, batch):
    if batch == 0 and hasattr(model.backbone.model, "pos_embed"):
        return  # timm's ViT reshapes with -1, which no tokens don't allow
    scores, maps = model(torch.randn(batch, 3, 64, 64), return_maps=True)
    assert (scores.shape, maps.shape[0]) == ((batch, 3), batch)


def test_on_the_meta_device(model):
    with torch.device("meta"):
        other = wrap_backbone(**model.wrap_arguments) if model.wrap_arguments else None
    if other is not None:
        assert all(parameter.is_meta for parameter in other.parameters())
        assert other(torch.zeros(2, 3, 64, 64, device="meta")).shape == (2, 3)
        assert set(other.state_dict()) == set(model.state_dict())


def test_any_input_size():
    model = wrap_backbone("test_resnet", 3).eval()
    scores, maps = model(torch.randn(2, 3, 96, 64), return_maps=True)
    assert (scores.shape, maps.shape) == ((2, 3), (2, 16, 3, 2))


DISTRIBUTED = ("NCHW", "tokens", "truncated")


def _train(rank, port, path):
    store = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", store, world_size=2, rank=rank)
    for way in DISTRIBUTED:
        torch.manual_seed(0)
        model = WAYS[way]().train()
        parallel = DistributedDataParallel(model)
        optimizer = torch.optim.SGD(model.param_groups(lr=0.01))
        torch.manual_seed(rank)
        for _ in range(3):
            optimizer.zero_grad()
            parallel(torch.randn(2, 3, 64, 64)).square().sum().backward()
            optimizer.step()
        torch.save(model.state_dict(), f"{path}/{way}{rank}.pt")
    torch.distributed.destroy_process_group()


def test_inference_mode_freezes_nothing():
    model = torchvision.models.resnet18()
    with torch.inference_mode():
        wrapped = wrap_backbone(model, 3, input_size=64)
    assert wrapped.attention.weight.requires_grad
    wrapped(torch.randn(2, 3, 64, 64)).sum().backward()
    named = wrapped.named_parameters()
    assert not [name for name, parameter in named if parameter.grad is None]


def test_a_model_built_in_inference_mode_is_refused():
    with torch.inference_mode():
        model = torchvision.models.resnet18()
    for function in (find_backbone, partial(wrap_backbone, num_classes=3)):
        with pytest.raises(ModelError, match=r"built in torch\.inference_mode"):
            function(model, input_size=64)


def test_two_processes_stay_equal(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_train, (port, str(tmp_path)), nprocs=2)
    for way in DISTRIBUTED:
        first, second = (torch.load(tmp_path / f"{way}{rank}.pt") for rank in (0, 1))
        torch.manual_seed(0)
        start = WAYS[way]().state_dict()
        changed = [key for key in first if not torch.equal(first[key], start[key])]
        assert "attention.weight" in changed
        assert any(key.startswith("backbone.") for key in changed)
        for key in first:
            if "running" not in key and "num_batches" not in key:
                assert torch.equal(first[key], second[key]), (way, key)


def test_the_papers_inception_resnet():
    with torch.device("meta"):
        model = wrap_backbone(
            "timm:inception_resnet_v2",
            7,
            at="repeat_2.8.branch0.bn.drop",
            block=SoftAttentionBlock,
            head="flatten",
        )

    def count(module):
        return sum(parameter.numel() for parameter in module.parameters())

    found = model.backbone.feature_map
    assert (found.input_size, found.channels, found.size) == ((3, 299, 299), 192, (8, 8))
    # gamma is the paper's; the authors' layer, which these numbers count, has none.
    assert count(model.attention) - 1 == 27_664
    assert count(model.head) == 7 * (384 * 4 * 4) + 7 == 43_015
    parameters = dict(model.backbone.named_parameters())
    norms = [name for name in model.backbone.state_dict() if name.endswith("running_mean")]
    channels = sum(model.backbone.state_dict()[name].numel() for name in norms)
    of_norms = {name.replace("running_mean", kind) for name in norms for kind in ("weight", "bias")}
    convolutions = sum(p.numel() for name, p in parameters.items() if name not in of_norms)
    assert (convolutions, channels) == (47_383_008 - 0, 27_200)
    # Keras's norms have a bias and two running statistics, and no scale.
    assert convolutions + 3 * channels == 47_464_608


def test_the_papers_densenet():
    with torch.device("meta"):
        model = wrap_backbone(
            "timm:densenet201",
            7,
            at="features.denseblock4.denselayer29.norm2",
            block=SoftAttentionBlock,
            head="flatten",
        )
    found = model.backbone.feature_map
    assert (found.channels, found.size) == (128, (7, 7))
    assert "features.denseblock4.denselayer29.conv2" in model.backbone.dropped


def test_a_block_of_ones_own_may_change_channels_and_size(x):
    model = wrap_backbone(
        "test_resnet", 3, block=lambda channels: nn.Conv2d(channels, 10, 1, stride=2)
    ).eval()
    assert model.num_features == model.head_hidden_size == 10
    assert model(x).shape == (2, 3)
    assert model.wrap_arguments is None
    pickle.loads(pickle.dumps(model))


def test_preprocessing_resolves():
    for name in ("test_resnet", "torchvision:shufflenet_v2_x0_5"):
        model = wrap_backbone(name, 3)
        assert model.pretrained_cfg is model.default_cfg
        data = timm.data.resolve_model_data_config(model)
        assert data["input_size"] == model.backbone.feature_map.input_size
    assert wrap_backbone("test_vit", 3, img_size=64).pretrained_cfg["input_size"] == (3, 64, 64)
    model = wrap_backbone("torchvision:resnet18", 3, input_size=(96, 64))
    data = timm.data.resolve_data_config(model=model)
    assert (data["input_size"], data["crop_pct"]) == ((3, 96, 64), 224 / 256)
    model = wrap_backbone(torchvision.models.resnet18(), 3)
    assert timm.data.resolve_model_data_config(model)["input_size"] == (3, 224, 224)


@pytest.mark.parametrize("training", [True, False])
def test_a_model_keeps_its_weights_mode_and_device(training):
    original = timm.create_model("test_resnet", device="meta", dtype=torch.bfloat16)
    original.train(training)
    original.layer1.train(not training)
    weights = dict(original.named_parameters())
    model = wrap_backbone(original, 3)
    assert model.backbone.model is original
    parts = set(model.modules()) - set(original.layer1.modules())
    assert all(module.training == training for module in parts)
    assert original.layer1.training != training
    assert all(p.is_meta and p.dtype == torch.bfloat16 for p in model.parameters())
    assert all(p is weights[name] for name, p in original.named_parameters())
    assert model.wrap_arguments is None


def test_the_configuration_builds_the_same_model():
    model = wrap_backbone("test_vit", 3, img_size=64, num_maps=2, block=None, drop_rate=0.1)
    again = wrap_backbone(**model.wrap_arguments)
    again.load_state_dict(model.state_dict())
    assert again.wrap_arguments == model.wrap_arguments


BAD = {
    "no classes": (
        ArgumentError,
        {"num_classes": 0},
        r"num_classes must be .* at least 1, found 0",
    ),
    "classes of text": (ArgumentTypeError, {"num_classes": "7"}, r"num_classes.*found '7' \(str\)"),
    "no such name": (ArgumentError, {"backbone": "test_resnt"}, r"Closest: test_resnet"),
    "no model": (ArgumentTypeError, {"backbone": 3}, r"name of a model or a torch.nn.Module.*3"),
    "weights twice": (
        ArgumentError,
        {"pretrained": True, "img_size": 64},
        r"pretrained=True, img_size applies only to models that are given by name\. This ResNet",
    ),
    "no such module": (
        ModelError,
        {"at": "layer9"},
        r"'layer9': there is no module or node of this name\. Closest: la",
    ),
    "no such head": (ArgumentError, {"head": "pol"}, r"no head named 'pol'. Closest: pool"),
    "a built head": (
        ArgumentTypeError,
        {"head": nn.Flatten()},
        r"head must be \"pool\", \"flatten\"",
    ),
    "no such block": (
        ArgumentError,
        {"block": "cbma"},
        r"timm has no attention named 'cbma'.*cbam",
    ),
    "empty block": (ArgumentError, {"block": ""}, r"timm has no attention named ''"),
    "a built block": (ArgumentTypeError, {"block": nn.Identity()}, r"block must be a function"),
    "a block that flattens": (
        ModelError,
        {"block": lambda channels: nn.Flatten()},
        r"applying Flatten to a feature map of 96 x 5 x 5: expected .* found a tensor \(1, 2400\)",
    ),
    "a block that fails": (
        ModelError,
        {"block": lambda channels: nn.Linear(7, 7)},
        r"applying Linear to a feature map of 96 x 5 x 5: it raises RuntimeError",
    ),
    "a block of nothing": (
        ArgumentTypeError,
        {"block": lambda channels: None},
        r"block must return a torch.nn.Module, found None \(NoneType\)",
    ),
    "a head of nothing": (
        ArgumentTypeError,
        {"head": lambda channels, classes: None},
        r"head must return a torch.nn.Module, found None \(NoneType\)",
    ),
    "no maps": (ArgumentError, {"num_maps": 0}, r"num_maps must be .* at least 1, found 0"),
    "gamma of text": (
        ArgumentError,
        {"gamma": "unifrom"},
        r"gamma must be a number, \"uniform\" or None, found 'unifrom'",
    ),
    "gamma of infinity": (ArgumentError, {"gamma": float("inf")}, r"gamma must be a finite number"),
    "gamma of a list": (ArgumentTypeError, {"gamma": [1]}, r"gamma must be a finite number"),
    "maps beside a block": (
        ArgumentError,
        {"num_maps": 4, "block": SoftAttention},
        r"num_maps is an argument of the default attention.*SoftAttention, num_maps=4\)",
    ),
    "dropout beside a head": (
        ArgumentError,
        {"drop_rate": 0.5, "head": lambda c, n: nn.Linear(c, n)},
        r"drop_rate is an argument of the heads pool and flatten, found drop_rate=0\.5",
    ),
    "gamma beside a block": (
        ArgumentError,
        {"gamma": 0.1, "block": SoftAttention},
        r"gamma is an argument of the default attention.*block=partial\(SoftAttention, gamma=0.1\)",
    ),
    "dropout above 1": (ArgumentError, {"drop_rate": 2.0}, r"drop_rate must be between 0 and 1"),
    "sizes": (
        ArgumentError,
        {"input_size": (1, 2, 3, 4)},
        r"input_size must be one number, \(H, W\)",
    ),
    "a failing head": (ZeroDivisionError, {"head": lambda channels, classes: 1 / 0}, "division"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_refused_leaves_the_model_as_it_was(name):
    error, changed, message = BAD[name]
    original = timm.create_model("test_resnet").train()
    original.layer1.eval()
    state = copy.deepcopy(original.state_dict())
    before = [(n, id(m), m.training, list(m._forward_hooks)) for n, m in original.named_modules()]
    with pytest.raises(error, match=message) as raised:
        wrap_backbone(**{"backbone": original, "num_classes": 3, **changed})
    assert isinstance(raised.value, SoftAttnError | ZeroDivisionError)
    after = [(n, id(m), m.training, list(m._forward_hooks)) for n, m in original.named_modules()]
    assert after == before
    assert all(torch.equal(value, state[key]) for key, value in original.state_dict().items())
    assert all(parameter.requires_grad for parameter in original.parameters())


def test_timms_attentions_without_timm(monkeypatch):
    original = torchvision.models.shufflenet_v2_x0_5()
    monkeypatch.setitem(__import__("sys").modules, "timm.layers.create_attn", None)
    with pytest.raises(SoftAttnError, match=r"building the attention 'se' needs timm"):
        wrap_backbone(original, 3, block="se")


@pytest.mark.parametrize("way", sorted(set(WAYS) - {"the paper's"}))
def test_uniform_maps_leave_the_features_unchanged(way):
    model = WAYS[way](**({"input_size": (64, 96)} if way == "NCHW" else {}))
    height, width = model.backbone.feature_map.size
    assert model.attention.gamma.item() == height * width / model.attention.num_maps
    nn.init.zeros_(model.attention.weight)
    x = torch.randn(2, *model.backbone.feature_map.input_size)
    with torch.no_grad():
        features = model.eval().backbone(x)
        torch.testing.assert_close(model.forward_features(x), features)


def test_large_features_pass_almost_unchanged_at_first():
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 112, 3, 8, padding=1), nn.ReLU())

        def forward(self, x):
            return (7 * self.body(x)).mean((2, 3))

        def forward_features(self, x):
            return 7 * self.body(x)

    model = wrap_backbone(Large(), 3, input_size=64).eval()
    x = torch.randn(8, 3, 64, 64)
    x = x / model.backbone(x).std() * 7  # as large as those of a pretrained backbone
    with torch.no_grad():
        features = model.backbone(x)
        change = (model.forward_features(x) - features).std() / features.std()
    assert 0 < change < 0.2  # above 1 with the initial weights of SoftAttention
    # The maps are not equal, so that they can become different.
    maps = model(x, return_maps=True)[1]
    assert not torch.equal(maps[:, 0], maps[:, 1])


@pytest.mark.parametrize("gamma", [0.01, 3, None])
def test_gamma_starts_as_given(gamma):
    model = wrap_backbone("test_resnet", 3, gamma=gamma)
    assert isinstance(model.attention, SoftAttention)
    assert (model.attention.num_maps, model.attention.initial_gamma) == (16, gamma)
    assert model.wrap_arguments["gamma"] == gamma
    model = wrap_backbone("test_resnet", 3, block="se")
    assert wrap_backbone(**model.wrap_arguments).wrap_arguments == model.wrap_arguments
