"""The checks of families.py.

A check returns "yes", "no: REASON", or "-: REASON" if the bare model does not support it either.
"""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from softattn import SoftAttentionClassifier, wrap_backbone
from softattn.features import Source
from softattn.models import load_model

Check = Callable[[SoftAttentionClassifier, nn.Module, Tensor], str]

# Larger inputs take minutes on a CPU and test nothing more.
LARGEST = 331
# 224 is for patches of 14.
SMALL = (64, 128, 256, 224)


def build(name: str) -> tuple[SoftAttentionClassifier, nn.Module]:
    """Return a wrapped model and the bare one."""
    kwargs, size = choose_size(name)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    bare = load_model(name, kwargs=kwargs).model.eval()
    return wrap_backbone(copy.deepcopy(bare), 2, num_maps=4, input_size=size), bare


def choose_size(name: str, small: bool = False) -> tuple[dict[str, Any], int]:
    """Return the input size and constructor arguments: the default size or a smaller one."""
    own = _own_size(name)
    if own <= LARGEST and not small:
        return {}, own
    for side in SMALL if small else SMALL[2:]:
        for key in ("input_size", "img_size", "image_size"):
            if side < own and _fits(name, {key: side}):
                return {} if key == "input_size" else {key: side}, side
    return {}, own


def _own_size(name: str) -> int:
    try:
        with torch.device("meta"):
            cfg = load_model(name).pretrained_cfg
    except NotImplementedError:  # torchvision's RegNet computes its widths with tensors
        cfg = load_model(name).pretrained_cfg
    side: int = cfg["input_size"][1]
    return side


def _fits(name: str, option: dict[str, Any]) -> bool:
    """Return whether a model supports an input size, as it is or when built for it."""
    try:
        with torch.device("meta"):
            wrap_backbone(name, 2, **option)
    except Exception:  # some libraries' own checks of the size are asserts
        return False
    return True


def attempt(check: Check, model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    try:
        return check(model, bare, x)
    except Exception as error:
        return f"no: {said(error)}"


def said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def verdict(good: bool) -> str:
    return "yes" if good else "no"


@torch.no_grad()
def same_features(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    found = model.backbone.feature_map
    if found.at is None:
        wanted = found.source.read(bare, x)
    else:
        kept: list[Tensor] = []
        if found.at in dict(bare.named_modules()):
            point = bare.get_submodule(found.at)
            handle = point.register_forward_hook(lambda m, args, out: kept.append(out.clone()))
            bare(x)
            handle.remove()
            wanted = kept[0]
        else:  # a node of the graph, whose value no hook shows
            wanted = create_feature_extractor(bare, [found.at])(x)[found.at]
    wanted = found.map_layout.to_nchw(wanted, (x.shape[-2], x.shape[-1]))
    return verdict(torch.equal(model.backbone(x), wanted))


def state_dict(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    own = model.backbone.model
    problems = own.load_state_dict(bare.state_dict(), strict=False)
    prefixes = tuple(f"{name}." for name in model.backbone.dropped)
    extra = [key for key in problems.unexpected_keys if not key.startswith(prefixes)]
    return verdict(not problems.missing_keys and not extra)


@torch.no_grad()
def copies(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    others = (copy.deepcopy(model), pickle.loads(pickle.dumps(model)))
    return verdict(all(torch.equal(other(x), model(x)) for other in others))


@torch.no_grad()
def batches(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    if model(x[:1]).shape != (1, 2):
        return "no"
    try:
        source = model.backbone.feature_map.source
        bare(x[:0]) if source is Source.TRUNCATED else source.read(bare, x[:0])
    except Exception as error:
        return f"-: a batch of 0: {said(error)}"
    return verdict(model(x[:0]).shape == (0, 2))


@torch.no_grad()
def other_size(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    larger = torch.randn(1, x.shape[1], x.shape[2] + 64, x.shape[3] + 128)
    try:
        bare(larger)
    except Exception as error:
        return f"-: {said(error)}"
    maps = model(larger, return_maps=True)[1]
    return verdict(min(maps.shape[2:]) > 1)


@torch.no_grad()
def formats(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    found = last(x.to(memory_format=torch.channels_last))
    half = copy.deepcopy(model).bfloat16()(x.bfloat16())
    close = torch.allclose(found, model(x), rtol=1e-3, atol=1e-4)
    return verdict(close and half.dtype == torch.bfloat16 and bool(half.isfinite().all()))


def gradients(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    """In training, every parameter that is not frozen gets a gradient, as DDP requires."""
    trained = copy.deepcopy(model).train()
    trained(x).square().sum().backward()
    without = [n for n, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    return f"no: {without[0]}" if without else "yes"


def checkpointing(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    if not hasattr(model.backbone.model, "set_grad_checkpointing"):
        return "-: it has no set_grad_checkpointing"
    if hasattr(bare, "set_grad_checkpointing"):
        try:
            bare.set_grad_checkpointing(True)
        except (AssertionError, NotImplementedError) as error:
            return f"-: {said(error)}"
        bare.set_grad_checkpointing(False)
    found = []
    for enable in (False, True):
        other = copy.deepcopy(model).train()
        other.set_grad_checkpointing(enable)
        torch.manual_seed(0)
        other(x).square().sum().backward()
        found.append([p.grad for p in other.parameters() if p.requires_grad])
    return verdict(all(torch.allclose(a, b) for a, b in zip(*found, strict=True)))


def export(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    def attempted(part: nn.Module) -> Tensor:
        shapes = {"x": {0: torch.export.Dim("batch")}}
        program = torch.export.export(part, (x,), dynamic_shapes=shapes)
        found: Tensor = program.module()(torch.cat([x, x[:1]]))
        return found

    return _unless_bare(attempted, model, bare, torch.cat([x, x[:1]]))


def compiled(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    def attempted(part: nn.Module) -> Tensor:
        torch.compiler.reset()
        found: Tensor = torch.compile(part, fullgraph=True, backend="eager")(x)
        return found

    return _unless_bare(attempted, model, bare, x)


@torch.no_grad()
def _unless_bare(
    attempted: Callable[[nn.Module], Tensor],
    model: SoftAttentionClassifier,
    bare: nn.Module,
    x: Tensor,
) -> str:
    """Compare a compiled model with the original; on failure, try the bare model."""
    try:
        found = attempted(model)
    except Exception as error:
        try:
            attempted(_Reads(model, bare))
        except Exception as own:
            if type(own) is type(error):
                return f"-: {said(own)}"
        return f"no: {said(error)}"
    return verdict(torch.allclose(found, model(x), rtol=1e-3, atol=1e-4))


class _Reads(nn.Module):
    """The method of the bare model that returns the feature map, as a module."""

    def __init__(self, model: SoftAttentionClassifier, bare: nn.Module) -> None:
        super().__init__()
        self.source, self.model = model.backbone.feature_map.source, bare

    def forward(self, x: Tensor) -> Any:
        return self.source.read(self.model, x)


CHECKS: dict[str, Check] = {
    "features": same_features,
    "state": state_dict,
    "copies": copies,
    "batches": batches,
    "larger": other_size,
    "formats": formats,
    "gradients": gradients,
    "checkpointing": checkpointing,
}
SLOW: dict[str, Check] = {"export": export, "compile": compiled}
