from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from building import build_classifier
from softattn import SoftAttention, SoftAttentionBlock, SpatialAttention
from softattn.keras import KerasSoftAttention
from torch import nn

from ham10000.errors import RecipeError
from ham10000.models import build_attention, summarize_recipes
from ham10000.models.factory import load_backbone
from ham10000.recipe import (
    MAP_LAYERS,
    AttentionRecipe,
    ModelRecipe,
    load_recipe,
    recipe_fields,
)

TINY = ModelRecipe("ham10000:tiny", at="block2")
PAPER = AttentionRecipe("soft", "paper")


@pytest.mark.parametrize("head", ["pool", "flatten", "rest"])
@pytest.mark.parametrize("attention", [None, PAPER])
def test_heads(head: str, attention: AttentionRecipe | None) -> None:
    recipe = replace(TINY, head=head)  # type: ignore[arg-type]
    model = build_classifier(recipe, 5, attention=attention, size=32)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert model.has_attention is (attention is not None)
    # With a whole image the scores depend on all parts.
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_rest_takes_twice_the_channels_after_the_papers_block() -> None:
    recipe = replace(TINY, head="rest")
    plain = build_classifier(recipe, size=32).network.head
    attended = build_classifier(recipe, attention=PAPER, size=32).network.head
    assert [name for name, _ in plain.named_children()] == ["pool2", "block3", "classifier"]
    assert [name for name, _ in attended.named_children()] == ["block3", "classifier"]
    widths = [head.get_submodule("block3.0.0").in_channels for head in (plain, attended)]
    assert widths == [16, 32]
    # If the attention does not pool, the pooling stage of the network stays.
    unpooled = build_classifier(recipe, attention=replace(PAPER, pool=1), size=32).network.head
    assert next(name for name, _ in unpooled.named_children()) == "pool2"


def test_initial_values_and_averages_of_keras() -> None:
    recipe = replace(TINY, head="rest", head_init="keras", norm_momentum=0.01)
    network = build_classifier(recipe, size=32).network
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    assert {norm.momentum for norm in norms} == {0.01}
    # Inside a traced norm layer the momentum is a constant.
    inside = ModelRecipe("timm:resnet18", at="layer1.0.bn1", norm_momentum=1.0)
    model, images = build_classifier(inside, size=32).train(), torch.randn(4, 3, 32, 32)
    model(images)
    key = "network.backbone.model.layer1.0.bn1.running_mean"
    statistics = model.state_dict()[key].clone()
    model(images)
    torch.testing.assert_close(model.state_dict()[key], statistics)
    assert (statistics.abs() > 1e-3).any()
    linear = network.get_classifier()
    bound = (6 / (linear.in_features + linear.out_features)) ** 0.5
    assert (linear.bias == 0).all()
    assert 0.9 * bound < linear.weight.abs().max() <= bound
    plain = build_classifier(replace(TINY, head="rest"), size=32).network
    assert {m.momentum for m in plain.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}
    assert (plain.get_classifier().bias != 0).any()


def test_the_fields_reach_the_attention() -> None:
    recipe = replace(PAPER, num_maps=3, kernel_size=5, gamma=None, pool=3, drop_rate=0.25)
    block = build_classifier(TINY, attention=recipe, size=32).network.attention
    assert isinstance(block, SoftAttentionBlock)
    assert (block.pool, block.drop_rate, block.attention.gamma) == (3, 0.25, None)
    assert block.attention.weight.shape == (3, 16, 5, 5)
    recipe = AttentionRecipe("soft", num_maps=3, aggregate=False, concat=True)
    plain = build_classifier(TINY, attention=recipe, size=32).network.attention
    assert isinstance(plain, SoftAttention)
    assert (plain.num_maps, plain.out_channels) == (3, 4 * 16)


@pytest.mark.parametrize("layer", ["soft", "placebo"])
@pytest.mark.parametrize("block", ["plain", "paper"])
def test_uniform_gamma_is_positions_by_maps(layer: Any, block: Any) -> None:
    recipe = AttentionRecipe(layer, block, num_maps=2, gamma="uniform")
    network = build_classifier(TINY, attention=recipe, size=32).network.eval()
    (attention,) = (m for m in network.modules() if isinstance(m, SoftAttention))
    height, width = network.backbone.feature_map.size
    assert attention.gamma is not None
    assert attention.gamma.item() == attention.initial_gamma == height * width / 2
    torch.nn.init.zeros_(attention.weight)
    features = network.backbone(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(attention(features), features)


@pytest.mark.parametrize("block", ["plain", "paper"])
def test_the_placebo_is_soft_attention_with_uniform_maps_that_stay(block: Any) -> None:
    recipe = AttentionRecipe("placebo", block, gamma=0.5)
    models = {}
    for layer in ("soft", "placebo"):
        torch.manual_seed(0)
        models[layer] = build_classifier(TINY, attention=replace(recipe, layer=layer), size=32)
    soft, placebo = models["soft"], models["placebo"]
    # Keys, shapes and initial values are equal, except for the convolution of the maps.
    ours, theirs = soft.state_dict(), placebo.state_dict()
    other = {name for name in ours if not torch.equal(ours[name], theirs[name])}
    assert ours.keys() == theirs.keys()
    assert {name.rpartition(".")[2] for name in other} == {"weight"}
    assert len(other) == 1
    frozen = {name for name, p in placebo.named_parameters() if not p.requires_grad}
    assert frozen == {*other, other.pop().replace("weight", "bias")}
    # With uniform maps in soft attention too, outputs and gradients are equal to the last bit.
    soft.load_state_dict(theirs)
    x = torch.randn(2, 3, 32, 32)
    for model in models.values():
        torch.manual_seed(1)  # dropout
        model(x).square().sum().backward()
    for name, parameter in placebo.named_parameters():
        if name not in frozen:
            assert torch.equal(parameter.grad, soft.get_parameter(name).grad), name  # type: ignore[arg-type]
    assert torch.equal(soft.eval()(x), placebo.eval()(x))
    # Training, with weight decay, changes gamma and not the maps.
    optimizer = torch.optim.AdamW(placebo.param_groups(0.1, 1.0, weight_decay=0.5, layer_decay=1))
    held = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for _ in range(3):
        optimizer.zero_grad()
        placebo.train()(x).square().sum().backward()
        optimizer.step()
    maps = placebo.eval()(x, return_maps=True)[1]
    assert (maps == 1 / 64).all()  # 8 x 8 positions
    (gamma,) = (p for name, p in placebo.named_parameters() if name.endswith("gamma"))
    assert gamma.item() != 0.5
    for name in frozen:
        parameter = placebo.get_parameter(name)
        assert parameter.grad is None
        assert id(parameter) not in held
        assert not parameter.any()
    placebo.unfreeze_backbone()
    assert {name for name, p in placebo.named_parameters() if not p.requires_grad} == frozen


@pytest.mark.parametrize("block", ["plain", "paper"])
def test_the_authors_layer_is_as_in_their_code(block: Any) -> None:
    torch.manual_seed(0)
    attention = build_attention(AttentionRecipe("keras", block, num_maps=16), 64).eval()
    (layer,) = (m for m in attention.modules() if isinstance(m, SpatialAttention))
    assert isinstance(layer, KerasSoftAttention)
    assert {name for name, _ in layer.named_parameters()} == {"weight", "bias"}  # no gamma
    assert (layer.aggregate, layer.concat, layer.num_maps) == (True, False, 16)
    # he_uniform of Keras: uniform up to sqrt(6 / fan_in), with the fan of a (C, 3, 3) kernel.
    bound = (6 / (64 * 3 * 3)) ** 0.5
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    assert not layer.bias.any()
    x = torch.randn(2, 64, 8, 8)
    features, maps = attention(x, return_maps=True)
    expected = x * maps.sum(dim=1, keepdim=True)
    assert maps.shape == (2, 16, 8, 8)
    if block == "plain":
        torch.testing.assert_close(features, expected)
    else:
        pooled = [torch.nn.functional.max_pool2d(each, 2) for each in (x, expected)]
        torch.testing.assert_close(features, torch.cat(pooled, dim=1).relu())
    # Only the first three channels reach the maps.
    x[:, 3:] = 0
    assert torch.equal(attention(x, return_maps=True)[1], maps)


LAYERS = get_args(recipe_fields()["attention.layer"].kind)


@pytest.mark.parametrize("layer", LAYERS)
def test_each_layer_trains_with_ddp(layer: Any) -> None:
    # DDP raises an error in the second pass if a trained parameter got no gradient in the first.
    recipe = AttentionRecipe(layer, num_maps=2)
    model = build_classifier(TINY, attention=recipe, size=32)
    assert model.has_attention is (layer in MAP_LAYERS)
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(model)
        for _ in range(2):
            parallel(torch.randn(2, 3, 32, 32)).sum().backward()
    finally:
        torch.distributed.destroy_process_group()
    trained = [p for p in model.parameters() if p.requires_grad]
    assert all(p.grad is not None for p in trained)
    assert len(trained) == len(list(model.parameters())) - 2 * (layer == "placebo")


@pytest.mark.parametrize("layer", [name for name in LAYERS if name not in (*MAP_LAYERS, "none")])
def test_timms_attentions_take_any_number_of_channels_and_positions(layer: Any) -> None:
    for channels, size in ((16, 1), (320, 5)):
        attention = build_attention(AttentionRecipe(layer), channels)
        assert type(attention).__module__.startswith("timm.layers")
        x = torch.randn(2, channels, size, size + 1)
        assert attention(x).shape == x.shape
        assert not torch.equal(attention(x), x)


@pytest.mark.parametrize("layer", ["none", "placebo", "keras", "se", "cbam"])
def test_each_layer_can_be_exported(layer: Any) -> None:
    model = build_classifier(TINY, attention=AttentionRecipe(layer, num_maps=2), size=32).eval()
    x = torch.randn(2, 3, 32, 32)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_without_attention_there_may_be_a_relu() -> None:
    recipe = replace(TINY, activation="relu")
    network = build_classifier(recipe, size=32).network.eval()
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(network.forward_features(x), network.backbone(x).relu())


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (ModelRecipe("timm:test_resnet", head="rest"), "works with the networks of ham10000: only"),
        (ModelRecipe("timm:test_resnet", at="layer9"), r"layer9.*Closest: layer"),
        (replace(TINY, at="block9"), "no stage of it, found 'block9'"),
    ],
)
def test_what_cannot_be_built(recipe: ModelRecipe, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_classifier(recipe, size=64)


def test_recipes_are_summarized_on_random_images_or_those_of_the_data_set(synthetic: Path) -> None:
    recipe = load_recipe("smoke")
    state = torch.get_rng_state()
    (random,) = summarize_recipes([recipe]).values()
    assert torch.equal(torch.get_rng_state(), state)
    assert summarize_recipes([recipe]) == {"smoke": random}
    (real,) = summarize_recipes([load_recipe("smoke", [f"data.root={synthetic}"])]).values()
    assert real.head_input == random.head_input == [32, 8, 8]
    assert real.head_input_std != random.head_input_std
    (frozen,) = summarize_recipes([load_recipe("smoke", ["model.frozen=true"])]).values()
    assert (frozen.trained["backbone"], frozen.frozen["backbone"]) == (0, 7264)


def test_torchvisions_models() -> None:
    recipe = ModelRecipe("torchvision:resnet18")
    model = build_classifier(recipe, attention=AttentionRecipe("soft"), size=64).eval()
    scores, maps = model(torch.randn(1, 3, 64, 64), return_maps=True)
    assert (scores.shape, maps.shape) == ((1, 7), (1, 16, 2, 2))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet50", "a model name starts with its source, as in timm:resnet50"),
        ("keras:resnet50", "a model name starts with its source"),
        ("timm:resnet5", "timm has no such model. Closest: .*resnet50"),
        ("torchvision:resnet51", "torchvision has no such model. Closest: .*resnet50"),
        ("ham10000:vgg", "no such network. Closest: vgg16"),
    ],
)
def test_unknown_names(name: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_backbone(name, None, pretrained=False, weights=None)


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_without_a_network_the_error_says_what_to_do(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise ConnectionError("no route\nto host")

    monkeypatch.setattr("timm.create_model", refuse)
    monkeypatch.setattr("torchvision.models.get_model", refuse)
    with pytest.raises(RecipeError) as caught:
        load_backbone(name, None, pretrained=True, weights=None)
    assert "cannot be loaded (ConnectionError: no route to host)" in str(caught.value)
    assert "model.weights=FILE" in str(caught.value)
    assert "model.pretrained=false" in str(caught.value)


def test_our_networks_have_no_weights_to_download() -> None:
    with pytest.raises(RecipeError, match=r"no published weights.*model\.pretrained=false"):
        load_backbone("ham10000:tiny", "block3", pretrained=True, weights=None)


@pytest.mark.parametrize("head", ["max", "probe"])
def test_other_heads_train_with_any_backbone(head: str) -> None:
    recipe = ModelRecipe("timm:test_resnet", head=head, num_queries=8)  # type: ignore[arg-type]
    model = build_classifier(recipe, attention=AttentionRecipe("soft"), size=64)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert type(model.network.head).__name__ == f"{head.capitalize()}Head"
    assert all(p.grad is not None for p in model.network.head.parameters())


@pytest.mark.parametrize("at", [None, "layer3"])
def test_drop_block_drops_in_training_only(at: str | None) -> None:
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    plain, dropping = (
        build_classifier(ModelRecipe("timm:test_resnet", at=at, drop_block_rate=rate), size=64)
        for rate in (0.0, 0.3)
    )
    for module in plain.modules():
        if isinstance(module, nn.BatchNorm2d):  # timm's residual branches start at zero
            nn.init.ones_(module.weight)
    dropping.load_state_dict(plain.state_dict())  # the same keys
    with torch.no_grad():
        assert torch.equal(plain.eval()(images), dropping.eval()(images))
        plain.train()
        dropping.train()
        assert torch.equal(plain(images), plain(images))
        assert not torch.equal(dropping(images), dropping(images))


@pytest.mark.parametrize(
    "name", ["timm:test_efficientnet", "torchvision:resnet18", "ham10000:tiny"]
)
def test_a_backbone_without_drop_block(name: str) -> None:
    with pytest.raises(
        RecipeError, match=rf"building {name}: it has no DropBlock. .*timm:resnet50"
    ):
        build_classifier(ModelRecipe(name, drop_block_rate=0.1))
