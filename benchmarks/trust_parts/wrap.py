"""Random arguments for wrap_backbone, insert_attention and find_backbone on small models."""

import random
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision
from torch import Tensor, nn

from softattn import (
    SoftAttention,
    SoftAttentionBlock,
    find_backbone,
    insert_attention,
    remove_attention,
    wrap_backbone,
)

from . import values
from .campaign import WrongResultError

NAMES = ("test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_mambaout")
"""Models of timm of some thousand parameters."""

TORCHVISION = ("squeezenet1_1", "shufflenet_v2_x0_5", "mnasnet0_5", "resnet18")


class Tokens(nn.Module):
    """Flatten a map to tokens, in one of several orders and with prefix tokens."""

    def __init__(self, prefix: int, transposed: bool) -> None:
        super().__init__()
        self.prefix, self.transposed = prefix, transposed

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, tokens, C)."""
        x = x.transpose(2, 3) if self.transposed else x
        tokens = x.flatten(2).transpose(1, 2)
        return torch.cat([tokens[:, : self.prefix], tokens], dim=1)


class Output(nn.Module):
    """Return a map in a container, or something else instead."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        """Return an output of the kind."""
        match self.kind:
            case "dict":
                return {"logits": x.mean((2, 3)), "features": x}
            case "tuple":
                return x, None
            case "list":
                return [x, x[:, :1]]
            case "none":
                return None
            case "text":
                return "x"
            case "complex":
                return x.to(torch.complex64)
            case "integer":
                return x.long()
            case "nan":
                return x * torch.nan
            case "empty":
                return x[:, :0]
        raise KeyError(self.kind)  # an error of a user's model


KINDS = ("dict", "tuple", "list", "none", "text", "complex", "integer", "nan", "empty")


def prepare(_: Path) -> None:
    """Silence warnings: cases share nothing."""
    warnings.simplefilter("ignore")


def case(_: None, rng: random.Random) -> None:
    """Call one of the functions on a random model."""
    model = _model(rng)
    model.train(rng.random() < 0.5)
    if rng.random() < 0.2:
        for parameter in list(model.parameters())[:2]:
            parameter.requires_grad_(False)
    before = snapshot(model)
    try:
        rng.choice((_wrap, _insert, _find))(model, rng, before)
    except WrongResultError:
        raise
    except Exception as error:
        if difference := compare(before, snapshot(model)):
            raise WrongResultError(
                f"{type(model).__name__}: after {type(error).__name__} ({error}), {difference}"
            ) from error
        raise


def _model(rng: random.Random) -> nn.Module:
    chance = rng.random()
    if chance < 0.2:
        return timm.create_model(rng.choice(NAMES), num_classes=5)
    if chance < 0.25:
        return torchvision.models.get_model(rng.choice(TORCHVISION), num_classes=5)
    return _sequential(rng)


def _sequential(rng: random.Random) -> nn.Sequential:
    channels, layers = 3, []
    for _ in range(rng.randint(0, 4)):
        out = rng.choice((1, 4, 8, 14))
        kernel, stride = rng.choice((1, 2, 3, 5)), rng.choice((1, 2, 3))
        padding = rng.choice((0, kernel // 2, kernel))
        layers.append(nn.Conv2d(channels, out, kernel, stride, padding))
        channels = out
        layers += rng.choice(
            ([], [nn.ReLU()], [nn.BatchNorm2d(out), nn.ReLU(inplace=True)], [nn.Dropout(0.5)])
        )
    end = rng.random()
    if end < 0.15:
        layers.append(Tokens(rng.choice((0, 0, 1, 2)), rng.random() < 0.3))
    elif end < 0.35:
        layers.append(Output(rng.choice((*KINDS, "error"))))
    elif end < 0.8:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 5)]
    if rng.random() < 0.04:
        layers.append(rng.choice((nn.Conv2d(99, 3, 1), nn.Conv3d(1, 1, 1))))
    return nn.Sequential(*layers)


def _name(model: nn.Module, rng: random.Random) -> Any:
    names = [name for name, _ in model.named_modules()]
    return values.mostly(rng, rng.choice([*names, "layer4", names[-1] + "x"]), 0.05)


def _size(rng: random.Random) -> Any:
    size = rng.choice((16, 24, 32, 33, 1, (32, 24), (3, 32, 32), (1, 16, 16), [32, 32]))
    return values.mostly(rng, size, 0.05)


def _wrap(model: nn.Module, rng: random.Random, before: dict[str, Any]) -> None:
    blocks: tuple[Any, ...] = (
        SoftAttention,
        SoftAttentionBlock,
        partial(SoftAttention, concat=True),
        nn.Identity,
        nn.Flatten,
        "se",
        "eca",
        "sx",
    )
    heads: tuple[Any, ...] = ("pool", "flatten", "pol", lambda channels, classes: nn.Flatten())
    options = {
        "gamma": rng.choice((0.01, None, "uniform", "unifrom")),
        "num_maps": rng.choice((1, 4)),
        "drop_rate": rng.choice((0.0, 0.5, 2.0)),
        "head": rng.choice(heads),
        "pretrained": False,
    }
    given = values.some(rng, options)
    if rng.random() < 0.3:
        given["block"] = values.mostly(rng, rng.choice(blocks))
    if rng.random() < 0.3:
        given["at"] = _name(model, rng)
    given["input_size"] = _size(rng)
    if rng.random() < 0.02:
        given[rng.choice(("img_size", "nonsense"))] = values.junk(rng)
    classes = rng.randint(1, 7)
    backbone = values.mostly(rng, model, 0.03)
    wrapped = wrap_backbone(backbone, values.mostly(rng, classes), **given).eval()
    size = wrapped.backbone.feature_map.input_size
    found = wrapped(torch.randn(2, *size))
    if tuple(found.shape) != (2, wrapped.num_classes):
        raise WrongResultError(f"scores of shape {tuple(found.shape)}, not {wrapped.num_classes}")


def _find(model: nn.Module, rng: random.Random, before: dict[str, Any]) -> None:
    at = _name(model, rng) if rng.random() < 0.4 else None
    size: Any = rng.choice(((32, 32), (3, 32, 24), (1, 1), None, [16, 16]))
    backbone = find_backbone(values.mostly(rng, model, 0.02), at, values.mostly(rng, size, 0.05))
    found = backbone.feature_map
    result = backbone.eval()(torch.randn(2, *found.input_size))
    if tuple(result.shape) != (2, found.channels, *found.size):
        raise WrongResultError(
            f"map of shape {tuple(result.shape)}, not {(found.channels, *found.size)}"
        )


def _insert(model: nn.Module, rng: random.Random, before: dict[str, Any]) -> None:
    at: Any = _name(model, rng)
    if rng.random() < 0.2:
        at = [at, _name(model, rng)]
    x = torch.randn(2, 3, 32, 32)
    training = model.training
    try:
        was = model.eval()(x)
    except Exception:  # a model that does not run, or not at this size
        was = None
    model.train(training)
    options = {
        "gamma": 0.0,
        "num_maps": rng.choice((1, 4)),
        "kernel_size": rng.choice((1, 3, 2)),
        "activation": rng.choice((None, "relu", "rely")),
        "bias": rng.random() < 0.5,
        "layout": rng.choice(("NCHW", "NLC", "NHWC", "nchw")),
        "grid": rng.choice(((4, 4), (0, 1), None)),
        "num_prefix_tokens": rng.choice((0, 1, 99)),
    }
    given = {key: value for key, value in values.some(rng, options).items() if rng.random() < 0.5}
    if rng.random() < 0.15:
        given = {"block": rng.choice(("se", "eca", nn.Identity, nn.Flatten, "sx"))}
    examples: tuple[Callable[[], Any], ...] = (
        lambda: x,
        lambda: (x,),
        lambda: {"input": x},
        lambda: torch.zeros(0, 3, 32, 32),
        lambda: torch.zeros(3, 32, 32),
    )
    # Most examples are x, since a random image of 224 pixels takes long.
    example = rng.choice(examples)() if rng.random() < 0.3 else x
    result = insert_attention(model, at, example=values.mostly(rng, example), **given)
    if result is not model:
        raise WrongResultError("insert_attention does not return the model")
    if was is not None and given.get("gamma", 0.0) == 0:
        _same(was, model.eval()(x), "with inserted attention")
        model.train(training)
    remove_attention(model)
    if difference := compare(before, snapshot(model)):
        raise WrongResultError(f"after remove_attention, {difference}")


def _same(was: Any, now: Any, when: str) -> None:
    if isinstance(was, Tensor):
        if not torch.equal(was.nan_to_num(), now.nan_to_num()):
            raise WrongResultError(f"the output {when} is another")
    elif isinstance(was, dict):
        for key, value in was.items():
            _same(value, now[key], when)
    elif isinstance(was, list | tuple):
        for first, second in zip(was, now, strict=True):
            _same(first, second, when)
    elif was != now:
        raise WrongResultError(f"the output {when} is another")


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Return all of a model that an error must leave as it is."""
    return {
        "modules": {name: type(module) for name, module in model.named_modules()},
        "training": {name: module.training for name, module in model.named_modules()},
        "hooks": {
            name: [
                len(getattr(module, hooks))
                for hooks in (
                    "_forward_hooks",
                    "_forward_pre_hooks",
                    "_backward_hooks",
                    "_backward_pre_hooks",
                    "_state_dict_hooks",
                    "_load_state_dict_pre_hooks",
                )
            ]
            for name, module in model.named_modules()
        },
        "attributes": {name: sorted(vars(module)) for name, module in model.named_modules()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "gradients": {name: p.grad is None for name, p in model.named_parameters()},
        "values": {
            name: value.detach().clone() if isinstance(value, Tensor) else value
            for name, value in model.state_dict().items()
            if not isinstance(value, nn.parameter.UninitializedTensorMixin)
        },
    }


def compare(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Return the first difference of two snapshots, or nothing."""
    for kind, was in before.items():
        now = after[kind]
        if list(was) != list(now):
            return f"the names of {kind} are others: {sorted(set(was) ^ set(now))[:4]}"
        for name, value in was.items():
            same = torch.equal if isinstance(value, Tensor) else lambda a, b: a == b
            if not same(value, now[name]):
                return f"{kind} of {name or 'the model'} differ"
    return ""
