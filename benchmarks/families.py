"""Test operations on one small wrapped model of every family, with random weights.

    python benchmarks/families.py           checks that need a few forward passes
    python benchmarks/families.py --slow    export and compile
    python benchmarks/families.py --ddp     training in two processes

Results are appended to a JSON lines file, from which an interrupted run continues. To repeat a
failed check, remove its line. Unless models are named, all results are written to docs/families.md.
"""

import argparse
import json
import platform
import re
import time
from pathlib import Path

import timm
import torch
import torchvision
from family_checks import CHECKS, SLOW, Check, attempt, build, said
from family_ddp import DDP, train_in_two

import softattn

# A small model of every file in timm.models, and one of every family of torchvision.
TIMM = """
beit_base_patch16_224 test_byobnet cait_xxs24_224 coat_tiny convit_tiny convmixer_768_32
test_convnext cpubone_nano crossvit_tiny_240 csatv2 cs3darknet_focus_s cspnext_tiny davit_tiny
deit_tiny_distilled_patch16_224 densenet121 dla46x_c dpn48b edgenext_xx_small efficientformer_l1
efficientformerv2_s0 test_efficientnet efficientvim_m1 efficientvit_b0 efficientvit_m0
vit_tiny_patch16_dinov3_qkvb fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050
hgnetv2_b0 hiera_tiny_224 hrnet_w18_small iformer_t inception_next_atto inception_resnet_v2
inception_v3 inception_v4 lcnetv2_small levit_128s lowformer_b0 test_mambaout test_coatnet
poolformer_s12 gmlp_ti16_224 mobilenetv3_small_050 mvitv2_tiny nest_tiny nextvit_small test_nfnet
pit_ti_224 pvt_v2_b0 rdnet_tiny regnetx_002 repghostnet_050 repvit_m1 test_resnet resnetv2_18
rexnet_100 selecsls42 legacy_seresnet18 sequencer2d_s shvit_s1 starnet_s050 swiftformer_xs
swin_tiny_patch4_window7_224 swinv2_tiny_window16_256 swinv2_cr_tiny_224 tiny_vit_5m_224
tnt_s_legacy_patch16_224 tresnet_m twins_svt_small vgg11 visformer_tiny test_vit test_vit_relpos
volo_d1_224 ese_vovnet19b_slim_dw legacy_xception xception41p xcit_nano_12_p8_224 halonet_h1
hardcorenas_b mobilevit_xxs res2next50 resnest14d skresnet18 vit_tiny_r_s16_p8_224 vitamin_small_224
"""
TORCHVISION = """
alexnet convnext_tiny densenet121 efficientnet_b0 googlenet inception_v3 maxvit_t mnasnet0_5
mobilenet_v2 mobilenet_v3_small regnet_y_400mf resnet18 shufflenet_v2_x0_5 squeezenet1_1 swin_t
swin_v2_t vgg11 vit_b_32
"""
# Those of timm that take minutes.
LARGE = """
samvit_base_patch16_224 nasnetalarge pnasnet5large naflexvit_base_patch16_parfac_gap qwen3_vit_88m
sam2_hiera_tiny gemma4_vit_167m mobilenetv5_base deepseek_vit_412m
"""

COLUMNS = (*CHECKS, *SLOW, DDP)

PAGE = """# Model families: tested operations

`make families` wrote this page on a CPU, with softattn {softattn}, timm {timm}, torchvision
{torchvision}, torch {torch} and Python {python}. `wrap_backbone` was applied to a small model of
every timm file and of every torchvision family, with random weights.

{summary}

- features: the features before the attention are bit-identical to those of the bare model.
- state: the `state_dict` of the bare model loads into the backbone; only keys of removed layers are
  left over.
- copies: `deepcopy` and `pickle` give models with bit-identical outputs.
- batches: batch sizes 1 and 0 work.
- larger: an input that is 64 pixels higher and 128 pixels wider works and gives maps of more than
  1 x 1.
- formats: channels_last gives the same outputs, and bfloat16 gives finite ones.
- gradients: in training, every parameter that is not frozen gets a gradient.
- checkpointing: gradients with and without gradient checkpointing agree.
- export: `torch.export` with a dynamic batch size gives the same outputs.
- compile: `torch.compile(fullgraph=True)`, traced and run without code generation, gives the same
  outputs.
- DDP: three steps of SGD in two gloo processes with different images, without
  `find_unused_parameters`, at the first supported size of 64, 128, 256 and 224 pixels or the
  default. Afterwards the parameters of both processes are equal and have changed, and every
  parameter that is not frozen had a gradient.

"-" means that the bare model does not support the operation either. An empty cell means that it was
not tried. Except for DDP, the input has the default size of the model, or 256 x 256 or 224 x 224 if
the default exceeds 331 pixels and the model supports the smaller size.

{results}

## Failures

{wrong}

## Operations that the bare models do not support

Where several models are listed, the message is that of the first.

{limits}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", help="timm:NAME or torchvision:NAME")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--slow", action="store_true", help="export and compile")
    kind.add_argument("--ddp", action="store_true", help="training in two processes")
    parser.add_argument("--results", type=Path, default=Path("out/families.jsonl"))
    parser.add_argument("--page", type=Path, default=Path("docs/families.md"))
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    families = [f"timm:{name}" for name in TIMM.split()]
    families += [f"torchvision:{name}" for name in TORCHVISION.split()]
    families += [f"timm:{name}" for name in LARGE.split()]
    names = arguments.models or families
    if arguments.ddp:
        known = read(arguments.results)
        train_in_two([name for name in names if DDP not in known.get(name, {})], arguments.results)
    else:
        for name in names:
            examine(name, SLOW if arguments.slow else CHECKS, arguments.results)
    rows = read(arguments.results)
    if not arguments.models:
        arguments.page.write_text(page({name: rows.get(name, {}) for name in families}))
    print(summary(rows))


def examine(name: str, checks: dict[str, Check], path: Path) -> None:
    """Run the checks that have no result yet."""
    known = read(path).get(name, {})
    left = {title: check for title, check in checks.items() if title not in known}
    if not left:
        return
    start = time.monotonic()
    try:
        model, bare = build(name)
    except Exception as error:
        write(path, name, {title: f"no: {said(error)}" for title in left})
        return
    x = torch.randn(2, *model.backbone.feature_map.input_size)
    write(path, name, {"input": " x ".join(map(str, x.shape[2:]))})
    for title, check in left.items():
        write(path, name, {title: attempt(check, model, bare, x)})
    print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


def write(path: Path, name: str, results: dict[str, str]) -> None:
    with path.open("a") as lines:
        lines.write(json.dumps({"model": name, **results}) + "\n")


def read(path: Path) -> dict[str, dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        row = json.loads(line)
        rows.setdefault(row.pop("model"), {}).update(row)
    return rows


def table(rows: list[list[str]]) -> str:
    head, *others = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *others])


def summary(rows: dict[str, dict[str, str]]) -> str:
    """Count the results of each check."""
    counts = [["check", "yes", "-", "no", "not tried"]]
    for title in COLUMNS:
        kinds = [kind(row, title) for row in rows.values()]
        counts.append([title, *(str(kinds.count(k)) for k in ("yes", "-", "no", ""))])
    return f"{len(rows)} models.\n\n{table(counts)}"


def kind(row: dict[str, str], title: str) -> str:
    return row.get(title, "").split(":")[0]


def page(rows: dict[str, dict[str, str]]) -> str:
    def reasons(wanted: str) -> str:
        lines: list[str] = []
        for title in COLUMNS:
            found: dict[str, list[str]] = {}
            texts: dict[str, str] = {}
            for name, row in rows.items():
                if kind(row, title) == wanted:
                    reason = row[title].partition(": ")[2] or "another result"
                    # One line for reasons that differ in their numbers only: that of the first.
                    alike = re.sub(r"\[.*?\]|\d+", "", reason)
                    found.setdefault(alike, []).append(f"`{name}`")
                    texts.setdefault(alike, reason)
            lines += [f"- {title}: {', '.join(found[k])}: {texts[k]}" for k in found]
        return "\n".join(lines) or "Nothing."

    results = [
        [name, row.get("input", ""), *(kind(row, title) for title in COLUMNS)]
        for name, row in rows.items()
    ]
    return PAGE.format(
        softattn=softattn.__version__,
        timm=timm.__version__,
        torchvision=torchvision.__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        summary=summary(rows),
        results=table([["model", "input", *COLUMNS], *results]),
        wrong=reasons("no"),
        limits=reasons("-"),
    )


if __name__ == "__main__":
    main()
