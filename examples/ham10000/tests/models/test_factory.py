from dataclasses import replace
from typing import Any

import pytest
import torch
from softattn import SoftAttention, SoftAttentionBlock

from ham10000.errors import RecipeError
from ham10000.models import build_model
from ham10000.models.factory import load_backbone
from ham10000.recipe import AttentionRecipe, ModelRecipe

TINY = ModelRecipe("ham10000:tiny", at="block2")
PAPER = AttentionRecipe("soft", "paper")


@pytest.mark.parametrize("head", ["pool", "flatten", "rest"])
@pytest.mark.parametrize("attention", [None, PAPER])
def test_heads(head: str, attention: AttentionRecipe | None) -> None:
    recipe = replace(TINY, head=head)  # type: ignore[arg-type]
    model = build_model(recipe, 5, attention=attention, size=32)
    assert model(torch.randn(2, 3, 32, 32)).shape == (2, 5)
    assert model.has_attention is (attention is not None)
    # With a whole image the scores depend on all parts.
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_the_rest_takes_twice_the_channels_after_the_papers_block() -> None:
    recipe = replace(TINY, head="rest")
    plain = build_model(recipe, size=32).network.head
    attended = build_model(recipe, attention=PAPER, size=32).network.head
    assert [name for name, _ in plain.named_children()] == ["pool2", "block3", "classifier"]
    assert [name for name, _ in attended.named_children()] == ["block3", "classifier"]
    widths = [head.get_submodule("block3.0.0").in_channels for head in (plain, attended)]
    assert widths == [16, 32]
    # If the attention does not pool, the pooling stage of the network stays.
    unpooled = build_model(recipe, attention=replace(PAPER, pool=1), size=32).network.head
    assert next(name for name, _ in unpooled.named_children()) == "pool2"


def test_the_fields_reach_the_attention() -> None:
    recipe = replace(PAPER, num_maps=3, kernel_size=5, gamma=None, pool=3, drop_rate=0.25)
    block = build_model(TINY, attention=recipe, size=32).network.attention
    assert isinstance(block, SoftAttentionBlock)
    assert (block.pool, block.drop_rate, block.attention.gamma) == (3, 0.25, None)
    assert block.attention.weight.shape == (3, 16, 5, 5)
    recipe = AttentionRecipe("soft", num_maps=3, aggregate=False, concat=True)
    plain = build_model(TINY, attention=recipe, size=32).network.attention
    assert isinstance(plain, SoftAttention)
    assert (plain.num_maps, plain.out_channels) == (3, 4 * 16)


@pytest.mark.parametrize("layer", ["soft", "placebo"])
@pytest.mark.parametrize("block", ["plain", "paper"])
def test_uniform_gamma_is_positions_by_maps(layer: Any, block: Any) -> None:
    recipe = AttentionRecipe(layer, block, num_maps=2, gamma="uniform")
    network = build_model(TINY, attention=recipe, size=32).network.eval()
    (attention,) = (m for m in network.modules() if isinstance(m, SoftAttention))
    height, width = network.backbone.feature_map.size
    assert attention.gamma is not None
    assert attention.gamma.item() == attention.initial_gamma == height * width / 2
    torch.nn.init.zeros_(attention.weight)
    features = network.backbone(torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(attention(features), features)


def test_without_attention_there_may_be_a_relu() -> None:
    recipe = replace(TINY, activation="relu")
    network = build_model(recipe, size=32).network.eval()
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
        build_model(recipe, size=64)


def test_torchvisions_models() -> None:
    recipe = ModelRecipe("torchvision:resnet18")
    model = build_model(recipe, attention=AttentionRecipe("soft"), size=64).eval()
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
    model = build_model(recipe, attention=AttentionRecipe("soft"), size=64)
    model(torch.randn(2, 3, 64, 64)).sum().backward()
    assert type(model.network.head).__name__ == f"{head.capitalize()}Head"
    assert all(p.grad is not None for p in model.network.head.parameters())
