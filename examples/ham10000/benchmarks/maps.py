"""Where trained attention looks: train runs of a published study, and score their maps.

    python examples/ham10000/benchmarks/maps.py STUDY --out out/maps [--fold 0] [--seed 0] \
        [--recipes frozen_placebo frozen_sa frozen_keras] [--faithful 100] [--set FIELD=VALUE ...]

STUDY is a folder of published results, such as examples/ham10000/results/frozen-lite0, and
HAM10000_DIR names the data set, with masks. Trains each recipe on the images of a fold, unless the
run is finished, says whether its predictions are those that are published, and writes
STUDY/maps.csv.bz2, from which the documentation takes its tables.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from ham10000.data import CLASSES
from ham10000.saliency import evaluate_saliency
from ham10000.study.plan import PlannedRun
from ham10000.study.published_maps import MAPS_FILE, maps_quotations
from ham10000.study.results import PublishedStudy
from ham10000.training import RunDir, open_run


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--fold", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--recipes", nargs="+", default=["frozen_placebo", "frozen_sa", "frozen_keras"]
    )
    parser.add_argument(
        "--faithful", type=int, default=100, help="images for deletion and insertion"
    )
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="FIELD=VALUE", help="as data.features=FOLDER"
    )
    options = parser.parse_args()
    study = PublishedStudy(options.study)
    options.out.mkdir(parents=True, exist_ok=True)
    split = options.out / "split.csv"
    study.split.to_csv(split, index=False, lineterminator="\n")
    parts = []
    for recipe in options.recipes:
        run = PlannedRun(recipe, options.seed, options.fold)
        folder = options.out / Path(run.folder).name
        train(run, folder, split, options.set)
        compare(study, run, folder)
        scores, images = evaluate_saliency(open_run(folder), faithful=options.faithful)
        gamma = scores["maps"]["gamma"] or {"initial": np.nan, "trained": np.nan}
        parts.append(
            images.assign(
                recipe=recipe,
                fold=options.fold,
                gamma_before=gamma["initial"],
                gamma_after=gamma["trained"],
            )
        )
        # Written after each recipe, since each takes minutes.
        table = pd.concat(parts)
        names = ["recipe", "fold", *(c for c in table.columns if c not in ("recipe", "fold"))]
        table[names].to_csv(
            options.study / MAPS_FILE, index=False, lineterminator="\n", float_format="%.4g"
        )
    for text in maps_quotations(options.study).values():
        print(text, end="\n\n")


def train(run: PlannedRun, folder: Path, split: Path, changes: list[str]) -> None:
    """Train a run on the given split, unless it is finished."""
    if RunDir(folder).done:
        return
    command = [sys.executable, "-m", "ham10000", "train", run.recipe, "--out", str(folder)]
    fields = [f"seed={run.seed}", f"data.split={split.absolute()}", f"data.fold={run.fold}"]
    subprocess.run([*command, *fields, *changes], check=True)


def compare(study: PublishedStudy, run: PlannedRun, folder: Path) -> None:
    """Print the largest difference of the predictions from the published ones, if there are any."""
    published = study.tables.get(run)
    if published is None:
        print(f"{run.folder}: predictions are not published")
        return
    own = pd.read_csv(RunDir(folder).predictions()).set_index("image_id")
    other = published.set_index("image_id")[list(CLASSES)].astype(float)
    largest = float((own.loc[other.index, list(CLASSES)] - other).abs().to_numpy().max())
    print(f"{run.folder}: largest difference from the published predictions {largest:g}")


if __name__ == "__main__":
    main()
