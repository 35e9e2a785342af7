"""Insert attention after every stage of one model per timm file and compare the outputs.

For the smallest model of every file of timm, at every module that its `feature_info` names:
attention is inserted with gamma 0 into the model with random weights, the output is compared bit
for bit with the output before the insertion, and attention is removed. Results are appended to a
JSON lines file, from which an interrupted run continues; the table is written to docs/insertion.md.
"""

import argparse
import fnmatch
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from softattn import SoftAttnError, insert_attention, remove_attention

PAGE = """# Stages: where attention can be inserted

`make coverage-insert` wrote this page with timm {timm} and torch {torch}. For the smallest model of
every timm file, attention was inserted after each module named by the model's `feature_info`, with
gamma 0, random weights and the default input size, on a CPU.

{summary}

| file | model | stages | identical | refused | broken |
| --- | --- | ---: | ---: | ---: | ---: |
{rows}

## Refused

{refused}

## Broken

{broken}
"""


def tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, tuple | list | dict):
        for part in output.values() if isinstance(output, dict) else output:
            yield from tensors(part)


def bits(output: object) -> list[bytes]:
    return [part.contiguous().numpy().tobytes() for part in tensors(output)]


def state(model: nn.Module) -> tuple[Any, ...]:
    hooks = [list(module._forward_hooks.items()) for module in model.modules()]
    kinds = [(name, type(module), module.training) for name, module in model.named_modules()]
    return list(model.state_dict()), hooks, kinds


def parameters(name: str) -> int:
    with torch.device("meta"):
        model = timm.create_model(name)
    return sum(parameter.numel() for parameter in model.parameters())


def smallest(file: str) -> str:
    return min(timm.list_models(module=file), key=parameters)


def try_stages(model: nn.Module, stages: list[str], x: Tensor, before: list[bytes]) -> str:
    """Return "identical", "refused: ..." or "broken: ..."."""
    as_it_was = state(model)
    try:
        insert_attention(model, stages)
    except SoftAttnError as error:
        changed = state(model) != as_it_was
        return "broken: refused and changed" if changed else f"refused: {error}"
    except Exception as error:  # any, for the table
        return f"broken: {type(error).__name__}: {error}"
    try:
        same = bits(model(x)) == before
    except Exception as error:
        same, reason = False, f"{type(error).__name__}: {error}"
    else:
        reason = "different output"
    remove_attention(model)
    if state(model) != as_it_was:
        same, reason = False, "different model after the removal"
    return "identical" if same else f"broken: {reason}"


@torch.no_grad()
def try_model(name: str) -> dict[str, str]:
    torch.manual_seed(0)
    model = timm.create_model(name).eval()
    infos = getattr(model, "feature_info", None) or []
    stages = list(dict.fromkeys(info["module"] for info in infos))
    x = torch.randn(1, *model.pretrained_cfg["input_size"])
    before = bits(model(x))
    # All stages at once, which takes two passes; one by one only if that fails.
    if stages and try_stages(model, stages, x, before) == "identical":
        return dict.fromkeys(stages, "identical")
    return {stage: try_stages(model, [stage], x, before) for stage in stages}


def read(path: Path) -> dict[str, dict[str, Any]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return {row["file"]: row for row in map(json.loads, lines)}


def page(rows: list[dict[str, Any]]) -> str:
    def count(row: dict[str, Any], kind: str) -> int:
        return sum(result.startswith(kind) for result in row["stages"].values())

    def reasons(kind: str) -> str:
        lines: list[str] = []
        for row in rows:
            stages: dict[str, list[str]] = {}
            for stage, result in row["stages"].items():
                if result.startswith(kind):
                    # One line for stages with the same reason.
                    stages.setdefault(short(result, stage), []).append(stage)
            for reason, names in stages.items():
                lines.append(
                    f"- `{row['model']}` at {', '.join(f'`{n}`' for n in names)}: {reason}"
                )
        return "\n".join(lines) or "None."

    def short(result: str, stage: str) -> str:
        reason = result.split(": ", 1)[1].removeprefix("inserting attention")
        reason = reason.removeprefix(f" at {stage!r}").removeprefix(": ")
        reason = (
            reason.split(" Other modules return")[0].split(" Closest:")[0].split(" There are:")[0]
        )
        return reason.replace(repr(stage), "of this name") if stage else reason

    kinds = ("identical", "refused", "broken")
    total = {kind: sum(count(row, kind) for row in rows) for kind in kinds}
    summary = (
        f"{len(rows)} models, {sum(total.values())} stages: {total['identical']} with outputs that "
        f"are identical to the last bit, {total['refused']} refused, {total['broken']} broken."
    )
    table = [
        f"| {row['file']} | {row['model']} | {len(row['stages'])} | "
        + " | ".join(str(count(row, kind)) for kind in kinds)
        + " |"
        for row in rows
    ]
    return PAGE.format(
        timm=timm.__version__,
        torch=torch.__version__,
        summary=summary,
        rows="\n".join(table),
        refused=reasons("refused"),
        broken=reasons("broken"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--filter", default="*", help="the files of timm, such as 'swin*'")
    parser.add_argument("--results", type=Path, default=Path("out/coverage_insert.jsonl"))
    parser.add_argument("--page", type=Path, default=Path("docs/insertion.md"))
    arguments = parser.parse_args()
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    files = [file for file in timm.list_modules() if fnmatch.fnmatch(file, arguments.filter)]
    for file in sorted(files):
        if file in read(arguments.results) or not timm.list_models(module=file):
            continue
        start = time.perf_counter()
        name = smallest(file)
        row = {"file": file, "model": name, "stages": try_model(name)}
        with arguments.results.open("a") as lines:
            lines.write(json.dumps(row) + "\n")
        kinds = [result.split(":")[0] for result in row["stages"].values()]
        seen = ", ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds))
        print(f"{file}: {name}: {seen} ({time.perf_counter() - start:.0f} s)", flush=True)
    rows = read(arguments.results)
    text = page([rows[file] for file in sorted(rows)])
    arguments.page.parent.mkdir(parents=True, exist_ok=True)
    if arguments.filter == "*":
        arguments.page.write_text(text)
    print(text.split("\n\n")[2])


if __name__ == "__main__":
    main()
