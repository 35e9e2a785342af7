"""Arguments that several commands share."""

from pathlib import Path

from jsonargparse import ArgumentParser

__all__ = ["add_data", "add_seed", "add_size", "add_workers"]


def add_data(parser: ArgumentParser) -> None:
    """Where the data set is."""
    parser.add_argument(
        "--data", type=Path, help="the data set's folder; what HAM10000_DIR names unless given"
    )


def add_seed(parser: ArgumentParser) -> None:
    """What is drawn is drawn from it."""
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")


def add_size(parser: ArgumentParser, *, required: bool = False, default: int | None = None) -> None:
    """How large images become."""
    parser.add_argument(
        "--size",
        type=int,
        required=required,
        default=default,
        help="images become so many pixels wide and high",
    )


def add_workers(parser: ArgumentParser) -> None:
    """How many threads work."""
    parser.add_argument(
        "--workers", type=int, help="how many threads; as many as there are cores unless given"
    )
