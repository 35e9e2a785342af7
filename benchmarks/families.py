"""What wrapped models survive: one small model of every family, with real (random) weights.

    python benchmarks/families.py                    every family; prints a table
    python benchmarks/families.py --slow test_vit    also export and compile, for the models named

Each check prints `yes`, `no` with what was wrong, or `-` where the model itself can't do it bare
(another input size, a batch of none, gradient checkpointing).
"""

import argparse
import copy
import pickle
import time
import warnings
from collections.abc import Callable

import torch
from torch import Tensor, nn

from softattn import SoftAttentionClassifier, wrap_backbone
from softattn.backbones import Source
from softattn.zoo import load_model

# The smallest model of every file in timm.models, and one of every family of torchvision.
TIMM = """
beit_base_patch16_224 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
test_convnext cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny
deepseek_vit_412m deit_tiny_distilled_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small
efficientformer_l1 efficientformerv2_s0 test_efficientnet efficientvim_m1 efficientvit_b0
efficientvit_m0 vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf
gcvit_xxtiny gemma4_vit_167m ghostnet_050 hgnetv2_b0 hiera_tiny_224 sam2_hiera_tiny
hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2 inception_v3 inception_v4
lcnetv2_small levit_128s lowformer_b0 test_mambaout test_coatnet poolformer_s12 gmlp_ti16_224
mobilenetv3_small_050 mobilenetv5_base mvitv2_tiny naflexvit_base_patch16_parfac_gap nasnetalarge
nest_tiny nextvit_small test_nfnet pit_ti_224 pnasnet5large pvt_v2_b0 qwen3_vit_88m rdnet_tiny
regnetx_002 repghostnet_050 repvit_m1 test_resnet resnetv2_18 rexnet_100 selecsls42
legacy_seresnet18 sequencer2d_s shvit_s1 starnet_s050 swiftformer_xs swin_tiny_patch4_window7_224
swinv2_tiny_window16_256 swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_legacy_patch16_224 tresnet_m
twins_svt_small vgg11 visformer_tiny test_vit test_vit_relpos samvit_base_patch16_224 volo_d1_224
ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p8_224
"""
TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5
mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 swin_t
swin_v2_t vgg11 vit_b_32
"""

Check = Callable[[SoftAttentionClassifier, nn.Module, Tensor], str]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*")
    parser.add_argument("--slow", action="store_true", help="export and compile too")
    args = parser.parse_args()
    checks = {**CHECKS, **(SLOW if args.slow else {})}
    families = [f"timm:{name}" for name in TIMM.split()]
    families += [f"torchvision:{name}" for name in TORCHVISION.split()]
    names = args.models or families
    print("| model |", " | ".join(checks), "| seconds |")
    print("| --- |" + " --- |" * (len(checks) + 1))
    failed = 0
    for name in names:
        start = time.monotonic()
        results = examine(name, checks)
        failed += sum(result.startswith("no") for result in results)
        seconds = f"{time.monotonic() - start:.0f}"
        print(f"| {name} |", " | ".join(results), f"| {seconds} |", flush=True)
    print(f"\n{len(names)} models, {len(checks)} checks each, {failed} failed")


def examine(name: str, checks: dict[str, Check]) -> list[str]:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    bare = load_model(name).model.eval()
    model = wrap_backbone(copy.deepcopy(bare), 2, num_maps=4)
    x = torch.randn(2, *model.backbone.feature_map.input_size)
    return [attempt(check, model, bare, x) for check in checks.values()]


def attempt(check: Check, model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    try:
        return check(model, bare, x)
    except Exception as error:
        text = " ".join(f"{type(error).__name__}: {error}".split())
        return f"no: {text[:100]}"


def verdict(good: bool) -> str:
    return "yes" if good else "no"


@torch.no_grad()
def same_features(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    found = model.backbone.feature_map
    if found.at is None:
        wanted = found.source.read(bare, x)
    else:
        kept: list[Tensor] = []
        if found.at not in dict(bare.named_modules()):
            return "-"  # a node of the graph: no hook shows its value
        point = bare.get_submodule(found.at)
        handle = point.register_forward_hook(lambda m, args, out: kept.append(out.clone()))
        bare(x)
        handle.remove()
        wanted = kept[0]
    wanted = found.place.to_nchw(wanted, *x.shape[-2:])
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
    except Exception:
        return "-"
    return verdict(model(x[:0]).shape == (0, 2))


@torch.no_grad()
def other_size(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    larger = torch.randn(1, x.shape[1], x.shape[2] + 64, x.shape[3] + 128)
    try:
        bare(larger)
    except Exception:
        return "-"
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
    """In training, every parameter that isn't frozen gets a gradient, as DDP needs it."""
    trained = copy.deepcopy(model).train()
    trained(x).square().sum().backward()
    without = [n for n, p in trained.named_parameters() if p.requires_grad and p.grad is None]
    return f"no: {without[0]}" if without else "yes"


def checkpointing(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    if not hasattr(model.backbone.model, "set_grad_checkpointing"):
        return "-"
    if hasattr(bare, "set_grad_checkpointing"):
        try:
            bare.set_grad_checkpointing(True)
        except (AssertionError, NotImplementedError):
            return "-"
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
    shapes = {"x": {0: torch.export.Dim("batch")}}
    program = torch.export.export(model, (x,), dynamic_shapes=shapes)
    more = torch.cat([x, x[:1]])
    return verdict(torch.allclose(program.module()(more), model(more), rtol=1e-3, atol=1e-4))


def compiled(model: SoftAttentionClassifier, bare: nn.Module, x: Tensor) -> str:
    torch.compiler.reset()
    one_graph = torch.compile(model, fullgraph=True, backend="eager")
    return verdict(torch.allclose(one_graph(x), model(x), rtol=1e-3, atol=1e-4))


CHECKS: dict[str, Check] = {
    "features to the last bit": same_features,
    "original state": state_dict,
    "copy, pickle": copies,
    "batch of 0 and 1": batches,
    "larger input": other_size,
    "channels last, bfloat16": formats,
    "all gradients": gradients,
    "checkpointing": checkpointing,
}
SLOW: dict[str, Check] = {"export, any batch": export, "compiled, one graph": compiled}


if __name__ == "__main__":
    main()
