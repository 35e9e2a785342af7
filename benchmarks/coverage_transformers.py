"""Wrap and insert into one small model of every architecture of transformers; record the results.

    python benchmarks/coverage_transformers.py                 all, and docs/transformers.md
    python benchmarks/coverage_transformers.py --filter 'vit*' some again, and the page

Architectures are those of `AutoModelForImageClassification` and `AutoBackbone`, and their vision
towers. Models are built from configurations with one or two layers per stage, with
random weights. Nothing is downloaded. Results are kept in `--out`; `--fresh` starts again.
"""

import argparse
import fnmatch
import json
import os
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
import transformers
from torch import Tensor, nn

from softattn import SoftAttnError, insert_attention, remove_attention, wrap_backbone
from softattn.models import load_model

CLASSES, MAPS, BATCH, IMAGE = 2, 4, 2, 96

PAGE = """# Models of transformers

`make coverage-models` writes this page, here with transformers {transformers} and torch {torch}. It
lists every model type of `AutoModelForImageClassification` and `AutoBackbone`, and their vision
towers. `wrap_backbone("transformers:TYPE", num_classes=2)` was called for each, with
a configuration of one or two layers per stage, and the model was run on two images. Attention was
inserted after the first and the last module of every list of layers or stages, with gamma 0, and
removed again; the outputs must be identical to the last bit.

- {listed} model types: {wrapped} wrapped, {refused} refused with a reason, {broken} broken
- {sites} insertion sites in {inserted} models: {identical} identical, {sites_refused} refused with
  a reason, {sites_broken} broken

The column `map` is C x H x W for the input size, `part` the module whose output holds the map (the
others are dropped), and `sites` the number of sites at which attention was inserted.

| model type | class | input | map | part | layout | sites |
| --- | --- | --- | --- | --- | --- | ---: |
{rows}

## Not wrapped

{not_wrapped}

## Insertion refused

{not_inserted}
"""


def main() -> None:
    args = parse_args()
    listed = model_types()
    names = [n for n in listed if any(fnmatch.fnmatch(n, p) for p in args.filter)]
    done: dict[str, dict[str, Any]] = {}
    if args.out.exists() and not args.fresh:
        done = {row["name"]: row for row in json.loads(args.out.read_text())}
    args.out.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    for count, name in enumerate(names, start=1):
        row = done[name] = check(name)
        args.out.write_text(json.dumps(list(done.values()), indent=1))
        sites = Counter(site["result"] for site in row["sites"])
        elapsed = time.monotonic() - start
        print(
            f"{count}/{len(names)} {elapsed:.0f} s {name}: {row['result']} {row['why']} "
            f"{dict(sites)}",
            flush=True,
        )
    if set(listed) <= set(done):
        args.page.write_text(page([done[name] for name in listed]))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter", nargs="+", default=["*"], help="patterns of model types")
    parser.add_argument("--out", type=Path, default=Path("build/coverage_transformers.json"))
    parser.add_argument("--page", type=Path, default=Path("docs/transformers.md"))
    parser.add_argument("--fresh", action="store_true", help="forget what --out holds")
    return parser.parse_args()


def model_types() -> list[str]:
    """Return the model types of image classifiers, backbones and vision towers."""
    listed = {
        config.model_type
        for mapping in (
            transformers.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING,
            transformers.MODEL_FOR_BACKBONE_MAPPING,
        )
        for config in mapping
    }
    towers = {f"{name}_vision_model" for name in listed}
    return sorted(listed | {name for name in towers if name in transformers.CONFIG_MAPPING})


def small(fields: Mapping[str, Any], narrow: bool) -> dict[str, Any]:
    """Return fields of a configuration for one or two layers per stage; if narrow, few channels."""
    found: dict[str, Any] = {}
    flat = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
    for name, value in fields.items():
        if name in ("num_hidden_layers", "depth_coefficient"):
            found[name] = 2 if name == "num_hidden_layers" else 0.1
        elif name in ("depths", "layer_depths") and isinstance(value, list | tuple):
            found[name] = [1] * len(value)
        elif name == "depth" and isinstance(value, list | tuple):  # CvT needs more in later stages
            found[name] = [min(layers, stage) for stage, layers in enumerate(value, start=1)]
        elif name == "image_size" and isinstance(value, int | list | tuple):
            found[name] = 224
        elif narrow and name in flat and isinstance(value, int):
            found[name] = flat[name]
        elif name == "vision_config" and isinstance(value, Mapping):
            found[name] = {**value, **small(value, narrow)}
    return found


def check(name: str) -> dict[str, Any]:
    """Wrap a small model, and insert attention into it."""
    default = transformers.CONFIG_MAPPING[name]().to_dict()
    row = check_one(name, small(default, narrow=True))
    # Some models have no such combination of sizes, or not so few layers.
    for fields in (small(default, narrow=False), {}):
        if row["result"] != "wrapped":
            again = check_one(name, fields)
            row = again if again["result"] == "wrapped" else row
    return row


def check_one(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"name": name, "result": "broken", "why": "", "class": "", "sites": []}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.manual_seed(0)
            model = load_model(f"transformers:{name}", kwargs=fields).model
            row["class"] = type(model).__name__
            wrap(name, model, fields, row)
            images = torch.randn(BATCH, *row["input"])
            row["sites"] = [insert(model, site, images) for site in sites(model)]
        except SoftAttnError as error:
            row["result"], row["why"] = "refused", one_line(error)
        except Exception as error:
            row["why"] = f"{type(error).__name__}: {one_line(error)}"
    return row


def wrap(name: str, model: nn.Module, fields: dict[str, Any], row: dict[str, Any]) -> None:
    # Models of any size declare none.
    config = transformers.CONFIG_MAPPING[name]()
    sized = hasattr(getattr(config, "vision_config", config), "image_size")
    wrapped = wrap_backbone(
        f"transformers:{name}",
        CLASSES,
        num_maps=MAPS,
        input_size=None if sized else IMAGE,
        **fields,
    ).eval()
    found = wrapped.backbone.feature_map
    row["input"] = list(found.input_size)
    row["map"] = [found.channels, *found.size]
    row["part"] = found.at
    row["layout"] = found.map_layout.layout.value
    row["prefix"] = found.map_layout.num_prefix_tokens
    with torch.no_grad():
        scores, maps = wrapped(torch.randn(BATCH, *found.input_size), return_maps=True)
    shapes = (tuple(scores.shape), tuple(maps.shape))
    lost = {f"backbone.model.{key}" for key in model.state_dict() if not dropped(wrapped, key)}
    lost -= set(wrapped.state_dict())
    if shapes != ((BATCH, CLASSES), (BATCH, MAPS, *found.size)) or min(found.size) < 2:
        row["why"] = f"returned {shapes}"
    elif lost:
        row["why"] = f"lost {sorted(lost)[:3]}"
    else:
        row["result"] = "wrapped"


def dropped(wrapped: Any, key: str) -> bool:
    return any(key.startswith(f"{name}.") for name in wrapped.backbone.dropped)


def sites(model: nn.Module) -> list[str]:
    """Return the first and the last module of each outermost list of modules."""
    found: list[str] = []
    lists: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in lists)
        of_lists = isinstance(next(iter(module.children()), None), nn.ModuleList)
        if isinstance(module, nn.ModuleList) and len(module) and not inside and not of_lists:
            lists.append(name)
            ends = dict.fromkeys((0, len(module) - 1))
            found += [f"{name}.{end}" for end in ends]
    return found


def insert(model: nn.Module, name: str, images: Tensor) -> dict[str, str]:
    """Insert attention at a module, compare the outputs, and remove it."""
    keys = list(model.state_dict())
    with torch.no_grad():
        torch.manual_seed(0)
        before = bits(model(images))
        try:
            insert_attention(model, name, num_maps=MAPS, example=images)
        except SoftAttnError as error:
            return {"at": name, "result": "refused", "why": one_line(error)}
        torch.manual_seed(0)
        same = bits(model(images)) == before
        remove_attention(model)
        torch.manual_seed(0)
        restored = bits(model(images)) == before and list(model.state_dict()) == keys
    result = "identical" if same and restored else "broken"
    return {"at": name, "result": result, "why": "" if same else "other outputs"}


def tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for part in output.values() if isinstance(output, Mapping) else output:
            yield from tensors(part)


def bits(output: object) -> list[bytes]:
    return [part.contiguous().numpy().tobytes() for part in tensors(output)]


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 400 else f"{text[:400]} ..."


def page(rows: list[dict[str, Any]]) -> str:
    results = Counter(row["result"] for row in rows)
    tried = [site for row in rows for site in row["sites"]]
    inserted = Counter(site["result"] for site in tried)
    lines = []
    for row in rows:
        if row["result"] == "wrapped":
            image, found = ("x".join(map(str, row[key])) for key in ("input", "map"))
            prefix = f", {row['prefix']} prefix" if row["prefix"] else ""
            part = f"`{row['part']}`" if row["part"] else "the model"
            done = sum(site["result"] == "identical" for site in row["sites"])
            lines.append(
                f"| {row['name']} | {row['class']} | {image} | {found} | {part} "
                f"| {row['layout']}{prefix} | {done} of {len(row['sites'])} |"
            )
    not_wrapped = [
        f"- `{row['name']}` ({row['result']}): {row['why']}"
        for row in rows
        if row["result"] != "wrapped"
    ]
    not_inserted = [
        f"- `{row['name']}` at `{site['at']}` ({site['result']}): {site['why']}"
        for row in rows
        for site in row["sites"]
        if site["result"] != "identical"
    ]
    return PAGE.format(
        transformers=transformers.__version__,
        torch=torch.__version__.partition("+")[0],
        listed=len(rows),
        wrapped=results["wrapped"],
        refused=results["refused"],
        broken=results["broken"],
        sites=len(tried),
        inserted=sum(bool(row["sites"]) for row in rows),
        identical=inserted["identical"],
        sites_refused=inserted["refused"],
        sites_broken=inserted["broken"],
        rows="\n".join(lines),
        not_wrapped="\n".join(not_wrapped) or "None.",
        not_inserted="\n".join(not_inserted) or "None.",
    )


if __name__ == "__main__":
    main()
