"""Wrap every torchvision classifier and every timm architecture, and record the results.

    python benchmarks/coverage_models.py                      all, and docs/models.md
    python benchmarks/coverage_models.py --filter 'timm:vit*' some, and no page

Models are built on the meta device: their operations run, without weights or arithmetic. An
interrupted run continues from the results in `--out`; `--fresh` starts again.
"""

import argparse
import csv
import fnmatch
import json
import re
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import timm
import torch
import torchvision

from softattn import SoftAttentionClassifier, SoftAttnError, wrap_backbone
from softattn.models import load_model

CLASSES, MAPS, BATCH = 2, 16, 2


def main() -> None:
    args = parse_args()
    names = [
        name
        for name in all_names()
        if any(fnmatch.fnmatch(name, pattern) for pattern in args.filter)
    ]
    if args.fresh:
        args.out.unlink(missing_ok=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    done = {row["name"]: row for row in map(json.loads, read_lines(args.out))}
    start = time.monotonic()
    todo = [name for name in names if name not in done]
    with args.out.open("a") as out:
        for count, name in enumerate(todo, start=1):
            row = done[name] = check(name)
            print(json.dumps(row), file=out, flush=True)
            elapsed = time.monotonic() - start
            if row["result"] != "wrapped" or count % 25 == 0 or count == len(todo):
                print(f"{count}/{len(todo)} {elapsed:.0f} s {name}: {row['result']} {row['why']}")
    rows = [done[name] for name in names]
    print(summary(rows))
    differences = compare(rows, args.expected)
    print(f"{len(differences)} differ from the expected maps", *differences, sep="\n")
    if args.page is not None and len(names) == len(all_names()):
        args.page.write_text(page(rows))


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filter", nargs="+", default=["*"], help="patterns of names")
    parser.add_argument("--out", type=Path, default=Path("build/coverage_models.jsonl"))
    parser.add_argument("--page", type=Path, default=Path("docs/models.md"))
    parser.add_argument("--fresh", action="store_true", help="forget what --out holds")
    parser.add_argument(
        "--expected", type=Path, nargs="*", default=[], help="CSV files to compare maps with"
    )
    return parser.parse_args()


def all_names() -> list[str]:
    of_torchvision = torchvision.models.list_models(module=torchvision.models)
    return [f"torchvision:{n}" for n in of_torchvision] + [f"timm:{n}" for n in timm.list_models()]


def read_lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def check(name: str) -> dict[str, Any]:
    """Wrap a model and run it on its default input size."""
    row: dict[str, Any] = {"name": name, "result": "broken", "why": ""}
    start = time.monotonic()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = wrap_on_meta(name)
        found = model.backbone.feature_map
        with torch.no_grad():
            x = torch.zeros(BATCH, *found.input_size, device="meta")
            scores, maps = model.eval()(x, return_maps=True)
        wanted = ((BATCH, CLASSES), (BATCH, MAPS, *found.size))
        if (tuple(scores.shape), tuple(maps.shape)) == wanted and min(found.size) > 1:
            row["result"] = "wrapped"
        else:
            row["why"] = f"gave {tuple(scores.shape)} and {tuple(maps.shape)}"
        row["input"] = list(found.input_size)
        row["map"] = [found.channels, *found.size]
        row["source"] = found.source.value if found.at is None else f"at `{found.at}`"
        row["layout"] = found.map_layout.layout.value
        row["prefix"] = found.map_layout.num_prefix_tokens
        row["dropped"] = list(model.backbone.dropped)
        row["frozen"] = [name for name, p in model.named_parameters() if not p.requires_grad]
    except SoftAttnError as error:
        row["result"], row["why"] = "refused", str(error)
    except Exception as error:
        row["why"] = f"{type(error).__name__}: {error}"
    row["seconds"] = round(time.monotonic() - start, 2)
    return row


def wrap_on_meta(name: str) -> SoftAttentionClassifier:
    try:
        with torch.device("meta"):
            return wrap_backbone(name, CLASSES, num_maps=MAPS)
    except NotImplementedError:
        # Some constructors compute with values, which the meta device doesn't have.
        named = load_model(name)
        size = named.pretrained_cfg["input_size"]
        return wrap_backbone(named.model.to("meta"), CLASSES, num_maps=MAPS, input_size=size)


def compare(rows: list[dict[str, Any]], files: list[Path]) -> list[str]:
    """Compare the maps with those of CSV files with columns `model` and `map` or `tap_out`."""
    differences = []
    for path in files:
        with path.open() as file:
            expected = list(csv.DictReader(file))
        library = "timm" if "map" in expected[0] else "torchvision"
        maps = {
            f"{library}:{line['model']}": [
                int(n) for n in re.findall(r"\d+", line.get("map") or line["tap_out"])
            ]
            for line in expected
        }
        for row in rows:
            wanted = maps.get(row["name"])
            if wanted is not None and not agree(row, wanted):
                differences.append(f"{row['name']}: {row.get('map')}, expected {wanted}")
    return differences


def agree(row: dict[str, Any], wanted: list[int]) -> bool:
    """Compare a map with (..., C, H, W), or with tokens (B, P + H * W, C)."""
    if "map" not in row:
        return False
    channels, height, width = row["map"]
    if row["layout"] == "NLC" and wanted[0] == 1:
        return wanted[1:] == [row["prefix"] + height * width, channels]
    return wanted[-3:] == row["map"]


def summary(rows: list[dict[str, Any]]) -> str:
    lines = []
    for library in ("torchvision", "timm"):
        counts = Counter(row["result"] for row in rows if row["name"].partition(":")[0] == library)
        lines.append(
            f"{library}: {counts['wrapped']:,} of {counts.total():,} wrapped, "
            f"{counts['refused']} refused, {counts['broken']} broken"
        )
    return "\n".join(lines)


def page(rows: list[dict[str, Any]]) -> str:
    versions = (
        f"torch {torch.__version__.partition('+')[0]}, "
        f"torchvision {torchvision.__version__.partition('+')[0]} and timm {timm.__version__}"
    )
    how = Counter(
        (row["source"].partition(" `")[0], row["layout"]) for row in rows if "source" in row
    )
    ways = {"at": "traced, truncated before the pooling"}
    lines = [
        "# Models",
        "",
        "`make coverage-models` writes this page. `wrap_backbone(name, num_classes=2)` was called",
        "for every torchvision classifier and every timm architecture, with",
        f"{versions}. Each model was run on two images of",
        "its default size and must return scores of shape (2, 2) and 16 maps with more than one",
        "row and column.",
        "",
        *(f"- {line}" for line in summary(rows).splitlines()),
        "",
    ]
    failed = [row for row in rows if row["result"] != "wrapped"]
    if failed:
        lines += ["## Not wrapped", "", *(f"- `{r['name']}`: {r['why']}" for r in failed), ""]
    lines += [
        "The page ends with [counts of where the maps come from](#sources) and the models of which",
        "a part is frozen.",
        "",
        "## All models",
        "",
        "The column `map` is C x H x W of the feature map at the input size; `dropped` lists the",
        "modules that were removed because the feature map does not depend on them.",
        "",
        "| model | input | map | from | layout | dropped |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        if row["result"] == "wrapped":
            image, found = ("x".join(map(str, row[key])) for key in ("input", "map"))
            prefix = f", {row['prefix']} prefix" if row["prefix"] else ""
            dropped = ", ".join(f"`{name}`" for name in row["dropped"])
            lines.append(
                f"| {row['name']} | {image} | {found} | {row['source']} "
                f"| {row['layout']}{prefix} | {dropped} |"
            )
    frozen = [row for row in rows if row.get("frozen")]
    lines += [
        "",
        "## Sources",
        "",
        "| where the feature map comes from | layout | models |",
        "| --- | --- | --- |",
        *(
            f"| {ways.get(source, f'`{source}`')} | {layout} | {count:,} |"
            for (source, layout), count in how.most_common()
        ),
        "",
        "## Frozen parameters",
        "",
        f"In {len(frozen)} models, some parameters of the remaining modules do not contribute to",
        "the feature map. They are frozen, so that every trainable parameter gets a gradient:",
        f"{', '.join(row['name'].partition(':')[2] for row in frozen)}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
