"""The command `softattn`."""

import argparse
import sys
from collections.abc import Sequence

from softattn.cli.explain import explain_files, load_explainer
from softattn.cli.info import summarize
from softattn.errors import SoftAttnError

__all__ = ["main"]

_NAME = "a model of timm or torchvision"
_AT = "the module whose output gets attention; default: the last feature map"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 2 after an error that it prints."""
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except (SoftAttnError, OSError) as error:
        print(f"softattn {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _explain(options: argparse.Namespace) -> None:
    explainer = load_explainer(
        options.model,
        at=options.at,
        weights=options.weights,
        pretrained=options.pretrained,
        num_maps=options.num_maps,
        seed=options.seed,
    )
    print(f"{options.model}\n  backbone: {explainer.backbone_from}")
    print(f"  attention: {explainer.attention_from}")
    for path in explain_files(options.images, explainer, options.out):
        print(path)


def _info(options: argparse.Namespace) -> None:
    print(
        summarize(
            options.model,
            at=options.at,
            num_classes=options.num_classes,
            num_maps=options.num_maps,
        )
    )


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="softattn", description="Soft-Attention for image models (arXiv 2105.03358)."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    explain = commands.add_parser(
        "explain",
        help="draw the attention that a model pays to images",
        description="Draw the attention that a model pays to images: for each a figure with the "
        "image, the sum of the maps laid over it, and every map. Images are rotated as their EXIF "
        "orientation says; transparent ones are composited over white.",
    )
    explain.set_defaults(run=_explain)
    explain.add_argument("images", nargs="+", metavar="IMAGE")
    explain.add_argument(
        "--model", required=True, metavar="NAME", help="a model of timm or torchvision"
    )
    explain.add_argument("--at", metavar="MODULE", help="default: the last feature map")
    explain.add_argument("--out", required=True, metavar="DIR", help="where the figures go")
    weights = explain.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights", metavar="FILE", help="a state_dict: the model's, or the whole's"
    )
    weights.add_argument("--pretrained", action="store_true", help="fetch the library's weights")
    explain.add_argument("--num-maps", type=int, default=16, metavar="K", help="default: 16")
    explain.add_argument(
        "--seed", type=int, default=0, help="of the weights that no file gives; default: 0"
    )

    info = commands.add_parser(
        "info",
        help="say where attention goes in a model, and what it costs",
        description="Say where attention goes in a model, how large the map is, and how many "
        "parameters and multiply-adds (for one image) backbone, attention and head have.",
    )
    info.set_defaults(run=_info)
    info.add_argument("model", metavar="NAME", help=_NAME)
    info.add_argument("--at", metavar="MODULE", help=_AT)
    info.add_argument("--num-classes", type=int, default=1000, metavar="N", help="default: 1000")
    info.add_argument("--num-maps", type=int, default=16, metavar="K", help="default: 16")
    return parser
