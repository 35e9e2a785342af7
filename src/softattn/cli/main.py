"""The command `softattn`.

What a command needs is imported when it runs, so that --version and --help need no torch.
"""

import argparse
import sys
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import TypeAlias

from softattn import __version__
from softattn.errors import ArgumentError, SoftAttnError

__all__ = ["build_parser", "find_images", "main"]

_NAME = "name of a model of timm, torchvision or transformers"
_AT = "module whose output is attended (default: the last feature map)"
_NUM_MAPS = "number of attention maps (default: 16)"

_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}

# argparse has no public name for it.
_Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status: 0, or 2 if it prints an error.

    Example:
        >>> from softattn.cli import main
        >>> main(["info", "torchvision:resnet18"])
        torchvision:resnet18
        ...
        0

    Args:
        arguments: Arguments of the command line; those of the process by default.
    """
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except (SoftAttnError, OSError) as error:
        print(f"softattn {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def _explain(options: argparse.Namespace) -> None:
    images = find_images(options.images)
    from softattn.cli.explain import explain_files, load_explainer

    explainer = load_explainer(
        options.model,
        at=options.at,
        weights=options.weights,
        pretrained=options.pretrained,
        num_maps=options.num_maps,
        seed=options.seed,
    )
    print(f"{explainer.name}\n  backbone: {explainer.backbone_from}")
    print(f"  attention: {explainer.attention_from}")
    for path, found in explain_files(images, explainer, options.out):
        print(": ".join(filter(None, (str(path), found.classes))))


def find_images(places: Sequence[str | PathLike[str]]) -> list[Path]:
    """Return image files from files, directories, and patterns such as `photos/*.jpg`.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from PIL import Image
        >>> from softattn.cli.main import find_images
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (8, 8)).save(folder / "photo.png")
        >>> [path.name for path in find_images([folder, folder / "*.png"])]
        ['photo.png']

    Args:
        places: Files, directories or patterns. All image files directly in a directory are used;
            subdirectories are not searched. In patterns, ** matches any number of subdirectories.

    Returns:
        The files in this order, those of a directory or pattern sorted, each once.

    Raises:
        ArgumentError: A directory or pattern has no image files. Files are not checked.
    """
    found: dict[Path, Path] = {}
    for place in map(Path, places):
        if place.is_dir():
            files = sorted(place.iterdir())
        elif not place.exists() and (first := _first_pattern(place)) is not None:
            files = sorted(Path(*place.parts[:first]).glob("/".join(place.parts[first:])))
        else:
            files = [place]
        if files != [place]:
            files = [file for file in files if file.suffix.lower() in _SUFFIXES]
        if not files:
            raise ArgumentError(
                f"looking for images in {place}: there are no {', '.join(sorted(_SUFFIXES))} "
                "files. For those in subdirectories, pass a pattern such as 'photos/**/*.jpg'."
            )
        for file in files:
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _first_pattern(path: Path) -> int | None:
    return next((i for i, part in enumerate(path.parts) if any(c in part for c in "*?[")), None)


def _info(options: argparse.Namespace) -> None:
    from softattn.cli.info import summarize

    print(
        summarize(
            options.model,
            at=options.at,
            num_classes=options.num_classes,
            num_maps=options.num_maps,
        )
    )


def _completion(options: argparse.Namespace) -> None:
    try:
        import shtab
    except ImportError as error:
        from softattn._validation import missing_extra

        raise missing_extra("writing a completion script", "shtab", "completion") from error
    print(shtab.complete(build_parser(), options.shell))


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line.

    Example:
        >>> from softattn.cli.main import build_parser
        >>> build_parser().parse_args(["info", "resnet50"]).model
        'resnet50'
    """
    parser = argparse.ArgumentParser(
        prog="softattn", description="Soft-Attention for image models (arXiv:2105.03358)."
    )
    parser.add_argument("--version", action="version", version=f"softattn {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_explain(commands)
    _add_info(commands)
    _add_completion(commands)
    return parser


def _add_explain(commands: _Commands) -> None:
    explain = commands.add_parser(
        "explain",
        help="draw the attention of a model on images",
        description="Write a figure for each image: the image, the summed attention map laid over "
        "it, and every map. Images are rotated by their EXIF orientation; transparent ones "
        "are composited over white. If the classifier is trained too, the most probable classes "
        "are shown. Figures say where the attention is from, also if it is untrained.",
    )
    explain.set_defaults(run=_explain)
    explain.add_argument(
        "images",
        nargs="+",
        metavar="IMAGE",
        help="image files, directories, and patterns such as 'photos/*.jpg'",
    )
    explain.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help=f"{_NAME}, or a folder written by softattn.hub.save_pretrained",
    )
    explain.add_argument("--at", metavar="MODULE", help=_AT)
    explain.add_argument("--out", required=True, metavar="DIR", help="folder for the figures")
    weights = explain.add_mutually_exclusive_group()
    weights.add_argument(
        "--weights",
        metavar="FILE",
        help="weights of the original model, or of the wrapped one with its attention: a file "
        "written by torch.save, a safetensors file, or a checkpoint of a trainer like Lightning",
    )
    weights.add_argument(
        "--pretrained", action="store_true", help="load the library's pretrained weights"
    )
    explain.add_argument("--num-maps", type=int, default=16, metavar="K", help=_NUM_MAPS)
    explain.add_argument(
        "--seed", type=int, default=0, help="seed of untrained weights (default: 0)"
    )


def _add_info(commands: _Commands) -> None:
    info = commands.add_parser(
        "info",
        help="show where attention is added to a model, and its cost",
        description="Show which feature map of a model the attention gets, its size, and the "
        "numbers of parameters and multiply-adds (for one image) of backbone, attention and head.",
    )
    info.set_defaults(run=_info)
    info.add_argument("model", metavar="NAME", help=_NAME)
    info.add_argument("--at", metavar="MODULE", help=_AT)
    info.add_argument(
        "--num-classes", type=int, default=1000, metavar="N", help="class scores (default: 1000)"
    )
    info.add_argument("--num-maps", type=int, default=16, metavar="K", help=_NUM_MAPS)


def _add_completion(commands: _Commands) -> None:
    completion = commands.add_parser(
        "completion",
        help="print a script that completes commands and options in a shell",
        description='Print a script for a shell. In bash: eval "$(softattn completion bash)"',
    )
    completion.set_defaults(run=_completion)
    completion.add_argument("shell", choices=("bash", "zsh", "tcsh"), help="the shell")
