"""Models of Hugging Face transformers, built from the smallest configurations."""

import copy
import io
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from softattn import (
    ModelError,
    capture_maps,
    find_backbone,
    insert_attention,
    remove_attention,
    wrap_backbone,
)
from softattn.insertion.residual import ResidualAttention
from softattn.models import load_model

transformers = pytest.importorskip("transformers", reason="needs softattn[transformers]")

LAYERS = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 8}
VIT = {**LAYERS, "intermediate_size": 32, "image_size": 32}
SWIN = {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32}
CLIP = {"vision_config": VIT}

# Fields of the configuration, and (C, H, W) and the number of prefix tokens of the map.
MODELS: dict[str, tuple[dict[str, Any], tuple[int, int, int], int]] = {
    "vit": (VIT, (16, 4, 4), 1),
    "deit": (VIT, (16, 4, 4), 2),
    "beit": (VIT, (16, 4, 4), 1),
    "dinov2": ({**LAYERS, "image_size": 32}, (16, 4, 4), 1),
    "dinov2_with_registers": ({**LAYERS, "image_size": 32}, (16, 4, 4), 5),
    "swin": (SWIN, (16, 4, 4), 0),
    "swinv2": (SWIN, (16, 4, 4), 0),
    "siglip": (CLIP, (16, 4, 4), 0),
    "clip": (CLIP, (16, 4, 4), 1),
    "resnet": (
        {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
        (16, 8, 8),
        0,
    ),
    "convnext": (
        {"num_stages": 2, "hidden_sizes": [8, 16], "depths": [1, 1], "image_size": 32},
        (16, 4, 4),
        0,
    ),
    "segformer": (
        {
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "num_encoder_blocks": 2,
            "num_attention_heads": [1, 2],
            "sr_ratios": [2, 1],
        },
        (16, 4, 4),
        0,
    ),
}


def build(kind: str, **fields: Any) -> Any:
    """Return an image classifier of transformers in eval mode."""
    torch.manual_seed(0)
    return load_model(f"transformers:{kind}", kwargs={**MODELS[kind][0], **fields}).model


def images(kind: str, batch: int = 2) -> Tensor:
    size = 64 if kind == "resnet" else 32
    return torch.randn(batch, 3, size, size)


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def last_hidden_state(model: Any, x: Tensor) -> Tensor:
    base = getattr(model, model.base_model_prefix, None) or model.vision_model
    hidden: Tensor = base(x).last_hidden_state
    return hidden


def test_the_backbone_is_the_last_hidden_state_as_a_map(kind):
    model, x = build(kind), images(kind)
    _, (channels, height, width), prefix = MODELS[kind]
    with torch.no_grad():
        hidden = last_hidden_state(model, x)
        found = find_backbone(model, input_size=x.shape[2:])
        maps = found(x)
    if hidden.ndim == 3:
        hidden = hidden[:, prefix:].transpose(1, 2).unflatten(2, (height, width))
    assert maps.shape == (2, channels, height, width)
    assert torch.equal(maps, hidden)
    assert found.feature_map.map_layout.num_prefix_tokens == prefix
    assert "classifier" in found.dropped


def test_a_wrapped_model_keeps_its_keys_and_trains_everything(kind):
    model, x = build(kind), images(kind)
    size = x.shape[2]
    wrapped = wrap_backbone(model, 3, num_maps=2, input_size=size)
    keys = {f"backbone.model.{key}" for key in model.state_dict() if "classifier" not in key}
    assert {key for key in wrapped.state_dict() if key.startswith("backbone")} == keys
    scores, maps = wrapped.train()(x, return_maps=True)
    assert scores.shape == (2, 3)
    assert maps.shape == (2, 2, *MODELS[kind][1][1:])
    scores.square().sum().backward()
    assert [n for n, p in wrapped.named_parameters() if p.requires_grad and p.grad is None] == []
    assert wrapped.attention.gamma.grad.abs() > 0

    copied = copy.deepcopy(wrapped.eval())
    assert torch.equal(copied(x), wrapped(x))


def test_names_build_the_same_architecture(kind):
    fields, size, prefix = MODELS[kind]
    with torch.device("meta"):
        wrapped = wrap_backbone(f"transformers:{kind}", 3, **fields)
    found = wrapped.backbone.feature_map
    assert (found.channels, found.map_layout.num_prefix_tokens) == (size[0], prefix)
    assert wrapped.wrap_arguments["backbone"] == f"transformers:{kind}"
    if "image_size" in fields:
        assert found.size == size[1:]
        assert wrapped.pretrained_cfg["input_size"] == (3, 32, 32)


# Layers and stages that return tensors, tuples and data classes. Names differ between versions.
SITES = {
    "vit": ["vit.embeddings", "vit.layers.0", "vit.encoder.layer.0"],
    "deit": ["deit.layers.0", "deit.encoder.layer.0"],
    "dinov2_with_registers": ["dinov2_with_registers.embeddings"],
    "swin": ["swin.encoder.layers.0", "swin.encoder.layers.1", "swin.encoder", "swin.embeddings"],
    "clip": ["vision_model.encoder.layers.0", "vision_model.encoder"],
    "resnet": ["resnet.encoder.stages.0", "resnet.encoder"],
    "convnext": ["convnext.encoder.stages.0", "convnext.encoder"],
    "segformer": ["segformer.encoder", "segformer.stages.0.blocks.0", "segformer"],
}


def existing(model: nn.Module, names: list[str]) -> list[str]:
    """Return the names that a model has."""
    known = dict(model.named_modules())
    return [name for name in names if name in known]


@pytest.mark.parametrize("kind", SITES)
@torch.no_grad()
def test_insertion_is_the_identity_and_is_undone(kind):
    model, x = build(kind), images(kind)
    before, keys = model(x, output_hidden_states=True), list(model.state_dict())
    hooks = [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()]
    names = existing(model, SITES[kind])
    assert names

    insert_attention(model, names, num_maps=2, example=x)
    after = model(x, output_hidden_states=True)
    assert torch.equal(after.logits, before.logits)
    assert [key for key in model.state_dict() if "soft_attention" not in key] == keys
    with capture_maps(model) as maps:
        assert torch.equal(model(pixel_values=x).logits, before.logits)
    assert len(maps) == len(names)
    assert all(values.shape[:2] == (2, 2) for values in maps.values())

    for module in model.modules():
        if isinstance(module, ResidualAttention):
            module.gamma.fill_(5.0)
    assert not torch.equal(model(x).logits, before.logits)

    remove_attention(model)
    assert torch.equal(model(x).logits, before.logits)
    assert list(model.state_dict()) == keys
    assert [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()] == hooks


def test_gamma_inside_a_data_class_is_trained():
    model, x = build("swin"), images("swin")
    insert_attention(model, "swin.encoder", num_maps=2)
    kinds = []
    model.swin.encoder.register_forward_hook(lambda _m, _x, output: kinds.append(type(output)))
    model(x, labels=torch.tensor([0, 1])).loss.backward()
    assert issubclass(kinds[0], transformers.utils.ModelOutput)
    [attention] = [m for m in model.modules() if isinstance(m, ResidualAttention)]
    assert attention.gamma.grad.abs() > 0


def test_a_map_that_the_model_does_not_use_is_pointed_out():
    model = build("convnext")
    with pytest.warns(UserWarning, match="depends on no position .* or after a module that also"):
        insert_attention(model, "convnext")


def test_images_by_keyword_determine_the_grid():
    model = build("vit", image_size=48)
    insert_attention(model, existing(model, ["vit.layers.0"]) or "vit.encoder.layer.0")
    wide = torch.randn(1, 3, 24, 64)
    with torch.no_grad(), capture_maps(model) as maps:
        model(torch.randn(1, 3, 64, 24), interpolate_pos_encoding=True)
        model(pixel_values=wide, interpolate_pos_encoding=True)
    [values] = maps.values()
    assert values.shape[2:] == (3, 8)


def test_backbones_of_transformers_give_the_map_of_their_last_stage():
    config = transformers.SwinConfig(**SWIN, out_indices=[1, 2])
    model = transformers.AutoBackbone.from_config(config).eval()
    x = images("swin")
    wrapped = wrap_backbone(model, 3, num_maps=2).eval()
    assert torch.equal(wrapped.backbone(x), model(x).feature_maps[-1])
    earlier = transformers.AutoBackbone.from_config(
        transformers.SwinConfig(**SWIN, out_indices=[1])
    )
    assert wrap_backbone(earlier, 3).backbone.feature_map.size == (8, 8)


def test_weights_of_modules_that_are_not_called_are_kept():
    # The pooling of SigLIP uses the weights of a linear layer inside nn.MultiheadAttention.
    wrapped = wrap_backbone("transformers:siglip_vision_model", 3, num_maps=2, **VIT)
    assert wrapped.backbone.feature_map.source.value == "forward"
    assert wrapped(images("siglip")).shape == (2, 3)
    assert any(not parameter.requires_grad for parameter in wrapped.parameters())


def test_a_wrapped_model_is_pickled_exported_and_checkpointed():
    wrapped, x = wrap_backbone(build("vit"), 3, num_maps=2).eval(), images("vit")
    file = io.BytesIO()
    torch.save(wrapped, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), wrapped(x))
    exported = torch.export.export(wrapped, (x,)).module()
    assert torch.allclose(exported(x), wrapped(x), atol=1e-6)

    wrapped.train()
    plain = wrapped(x)
    wrapped.set_grad_checkpointing()
    layers = [m for m in wrapped.modules() if getattr(m, "gradient_checkpointing", False)]
    assert layers
    recomputed = wrapped(x)
    assert torch.equal(recomputed, plain)
    recomputed.sum().backward()
    wrapped.set_grad_checkpointing(False)
    assert not any(getattr(m, "gradient_checkpointing", False) for m in wrapped.modules())


def test_unsupported_checkpointing_is_refused():
    wrapped = wrap_backbone(build("resnet"), 3, input_size=64)
    with pytest.raises(
        ModelError, match=r"setting gradient checkpointing of .*: the model rejects"
    ):
        wrapped.set_grad_checkpointing()


def detr() -> nn.Module:
    backbone = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", out_indices=[2]
    )
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "num_queries": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return transformers.DetrModel(
        transformers.DetrConfig(
            backbone_config=backbone,
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            **sizes,
            **heads,
        )
    )


def bert() -> nn.Module:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return transformers.BertModel(transformers.BertConfig(**sizes, intermediate_size=32))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (detr, r"DetrModel: its last hidden state, a tensor \(1, 16, 16\), is the output of a dec"),
        (bert, r"running BertModel on images: its main input is input_ids"),
        # Tokens of a random quarter of the image.
        (
            lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**VIT, mask_ratio=0.75)),
            r"ViTMAEModel .*it returns a tensor \(1, 5, 16\).*in row-major order",
        ),
        # 100 detection tokens follow the positions: 1 + 196 + 100 = 8 + 17 * 17.
        (
            lambda: transformers.YolosModel(
                transformers.YolosConfig(**{**VIT, "image_size": [112, 112]})
            ),
            r"YolosModel .*it returns a tensor \(1, 297, 16\).*in row-major order",
        ),
    ],
    ids=["DETR", "BERT", "MAE", "YOLOS"],
)
def test_models_whose_output_is_not_a_map_are_refused(make, message):
    with pytest.raises(ModelError, match=message):
        wrap_backbone(make(), 3)


@pytest.mark.parametrize(
    ("make", "end"),
    [
        (lambda: transformers.ViTMAEModel(transformers.ViTMAEConfig(**VIT)), "0"),
        (
            lambda: transformers.HieraModel(
                transformers.HieraConfig(
                    embed_dim=8,
                    num_heads=[1, 2],
                    depths=[1, 1],
                    num_query_pool=1,
                    image_size=[64, 64],
                )
            ),
            "stages.0",
        ),
    ],
    ids=["MAE", "Hiera"],
)
def test_tokens_in_another_order_are_refused(make, end):
    model = make()
    name = next(n for n, _ in model.named_modules() if n.endswith(end) and "." in n)
    before = list(model.state_dict())
    with pytest.raises(ModelError, match=r"are not those of a .* grid in row-major order"):
        insert_attention(model, name)
    assert list(model.state_dict()) == before


def test_a_dictionary_from_forward_features_holds_the_map():
    class Net(nn.Module):
        """DINOv2's interface, with 4 register tokens that look like a 2 x 2 map."""

        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 8, 8, stride=8)

        def forward_features(self, x: Tensor) -> dict[str, Tensor]:
            tokens = self.patches(x).flatten(2).mT
            return {"x_norm_regtokens": tokens[:, :4] * 0, "x_norm_patchtokens": tokens}

        def forward(self, x: Tensor) -> Tensor:
            return self.forward_features(x)["x_norm_patchtokens"].mean(1)

    net = Net()
    found = find_backbone(net, input_size=(32, 32))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(found(x), net.patches(x))


def test_files_of_hub_and_local_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    hub = pytest.importorskip("softattn.hub")
    pytest.importorskip("safetensors", reason="needs softattn[hub]")

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("network access")

    monkeypatch.setattr("socket.socket.connect", refuse)
    model, x = build("vit"), images("vit")
    model.save_pretrained(tmp_path / "theirs")
    transformers.ViTImageProcessor(image_mean=[0.1, 0.2, 0.3]).save_pretrained(tmp_path / "theirs")

    name = f"transformers:{tmp_path / 'theirs'}"
    wrapped = wrap_backbone(name, 3, pretrained=True, num_maps=2).eval()
    hidden = last_hidden_state(model, x)
    assert torch.equal(wrapped.backbone(x).flatten(2).mT, hidden[:, 1:])
    assert wrapped.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)

    hub.save_pretrained(wrapped, tmp_path / "ours")
    loaded = hub.from_pretrained(tmp_path / "ours", local_files_only=True)
    assert torch.equal(loaded(x), wrapped(x))
    assert loaded.pretrained_cfg == wrapped.pretrained_cfg
