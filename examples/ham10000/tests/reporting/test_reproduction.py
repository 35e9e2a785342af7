import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ham10000.cli import main
from ham10000.data import load_table
from ham10000.errors import ArgumentError, RecipeError
from ham10000.evaluation import metrics_of, read_predictions, summarize
from ham10000.recipe import load_recipe
from ham10000.reporting import reproduction
from ham10000.reporting.reproduction import list_items, plan_item, reproduce_item
from ham10000.study import PlannedRun, describe_plan, estimate_seconds
from ham10000.study.launcher import RunTrainer
from ham10000.training import RunDir, claim_run

CONTENT = {
    "protocol": ["data.protocol=paper", "data.workers=0"],
    "tiny": ["training.epochs=1"],
    "note": "Published values are of one run.",
    "items": {
        "pair": {
            "title": "Two models",
            "extras": ["figures", "heatmaps"],
            "metrics": ["accuracy", "recall/df"],
            "variants": [
                {"name": "smoke_sa", "label": "with attention", "published": [0.9, 0.5]},
                {"name": "k1", "recipe": "smoke_sa", "label": "K = 1"}
                | {"set": ["attention.num_maps=1"]},
            ],
        },
        "single": {
            "title": "One model",
            "metrics": ["accuracy"],
            "variants": [{"name": "smoke_sa", "label": "with attention"}],
        },
    },
}


def test_every_item_can_be_planned_and_has_published_values(tmp_path: Path) -> None:
    for item in list_items().values():
        assert set(item.metrics) <= set(metrics_of(item.info.classes))
        published = item.variants[0].published.keys()
        if item.info.name == "ham10000":
            assert published == set(item.metrics)
        else:
            assert published == ({"recall/sk"} if item.name == "isic2017" else set())
        for scale in ("full", "tiny"):
            runs = plan_item(item, [0, 1], tmp_path, scale)  # type: ignore[arg-type]
            assert len(runs) == 2 * len(item.variants)
            for run, recipe in runs.items():
                assert (recipe.name, recipe.seed) == (run.recipe, run.seed)
                assert recipe.data.split_seed == 42
                assert recipe.data.root == tmp_path.absolute()
                assert (recipe.model.pretrained and scale == "tiny") is False


def test_models_of_several_items_are_the_same_runs(tmp_path: Path) -> None:
    seen: dict[PlannedRun, Any] = {}
    for item in list_items().values():
        for run, recipe in plan_item(item, [3], tmp_path).items():
            assert seen.setdefault(run, recipe) == recipe
    models = [recipe for recipe in seen.values() if recipe.name.endswith("_keras")]
    own = [recipe for recipe in models if recipe.data.set == "ham10000"]
    assert (len(own), len(models)) == (5, 7)
    for recipe in own:  # the authors' protocol
        assert (recipe.data.offline, recipe.data.augment) == ("auto", "none")
        assert recipe.data.epoch_samples == 919 * 16
        assert (recipe.attention.layer, recipe.attention.block) == ("keras", "paper")


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch, run: Path) -> list[str]:
    """Runs that were trained; a copy of another run takes the place of each."""
    folders: list[str] = []

    def copy(self: RunTrainer, planned: PlannedRun, environment: dict[str, str]) -> None:
        folders.append(planned.folder)
        shutil.copytree(run, self.study / planned.folder, dirs_exist_ok=True)

    monkeypatch.setattr(RunTrainer, "__call__", copy)
    monkeypatch.setattr(reproduction, "claim_runs", lambda study, runs: None)  # has another recipe
    monkeypatch.setattr(reproduction, "_content", lambda: CONTENT)
    return folders


def test_an_item_is_written_beside_the_published_values(
    trained: list[str], synthetic: Path, run: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    out = reproduce_item("pair", tmp_path, data=synthetic, seeds=[0, 1], log=lines.append)
    assert sorted(trained) == sorted(
        f"runs/{name}-seed{seed}" for name in ("k1", "smoke_sa") for seed in (0, 1)
    )
    assert "4 of 4 runs to train, at most" in "\n".join(lines)
    frame = pd.read_csv(out / "pair.csv")
    found = read_predictions(run / "predictions.csv")
    accuracy = summarize(found.targets, found.probabilities)["accuracy"]
    own = frame[frame["metric"] == "accuracy"]
    assert own["value"].tolist() == pytest.approx([accuracy] * 4)
    assert own["published"].tolist()[:1] == [0.9]
    assert own.set_index("variant")["published"].isna()["k1"].all()
    text = (out / "pair.md").read_text()
    assert "published 0.900" in text
    assert "Mean and range of 2 runs" in text
    assert "published 0.900" in (out / "pair.tex").read_text()
    drawn = {path.name for path in out.glob("*.svg")}
    assert {"pair_accuracy.svg", "pair_recall_df.svg", "heatmaps.svg"} < drawn
    assert {"confusion.svg", "roc.svg"} < drawn
    # Finished runs are used again, also by another item, and a missing one is trained.
    trained.clear()
    shutil.rmtree(tmp_path / "runs/k1-seed1")
    reproduce_item("pair", tmp_path, data=synthetic, seeds=[0, 1])
    assert trained == ["runs/k1-seed1"]
    trained.clear()
    reproduce_item("single", tmp_path, data=synthetic, seeds=[1])
    assert trained == []
    text = (tmp_path / "single/single.md").read_text()
    assert "One run of each model" in text
    assert "mean nothing" not in text
    out = reproduce_item("single", tmp_path, data=synthetic, seeds=[1], scale="tiny")
    assert "the values mean nothing" in (out / "single.md").read_text()


def test_finished_runs_of_something_else_are_refused(
    run: Path, synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reproduction, "_content", lambda: CONTENT)
    ((planned, recipe),) = plan_item(list_items()["single"], [0], synthetic).items()
    finished, _ = claim_run(tmp_path / planned.folder, recipe)
    shutil.copy(run / "predictions.csv", finished.path)
    reproduce_item("single", tmp_path, data=synthetic)
    before = finished.recipe.read_text()
    finished.recipe.write_text(before.replace("num_maps: 16", "num_maps: 4"))
    with pytest.raises(RecipeError, match=r"with attention\.num_maps 4 instead of 16"):
        reproduce_item("single", tmp_path, data=synthetic)
    finished.recipe.write_text(before)
    others = Path(shutil.copytree(synthetic, tmp_path / "others"))
    table = pd.read_csv(others / "HAM10000_metadata.csv")
    tested = read_predictions(run / "predictions.csv").table["image_id"].iloc[0]
    table[table["image_id"] != tested].to_csv(others / "HAM10000_metadata.csv", index=False)
    with pytest.raises(ArgumentError, match=f"another data set, which has the image {tested}"):
        reproduce_item("single", tmp_path, data=others)
    assert finished.recipe.read_text() == before
    finished.recipe.unlink()  # as of a run from elsewhere
    reproduce_item("single", tmp_path, data=synthetic)


def test_a_dry_run_trains_and_writes_nothing(
    trained: list[str], synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["reproduce", "pair", "--data", str(synthetic), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--dry-run", "--scale", "tiny"]) == 0
    assert "2 of 2 runs to train, at most 1 min on this machine" in capsys.readouterr().out
    assert not trained
    assert not (tmp_path / "out").exists()


def test_items_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in list_items())
    assert main(["reproduce"]) == 1
    assert "Pass one of models, classes" in capsys.readouterr().err
    assert main(["reproduce", "modls"]) == 1
    assert "Closest: models" in capsys.readouterr().err


def test_seeds_are_different(tmp_path: Path) -> None:
    for seeds in ([], [0, 0]):
        with pytest.raises(ArgumentError, match="expected different seeds, found"):
            plan_item(list_items()["models"], seeds, tmp_path)


def test_the_estimate_counts_images(synthetic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ham10000.study.estimate._seconds_per_image", lambda recipe: (2.0, 0.5))
    table = load_table(synthetic)
    single = int((table["lesion_id"].value_counts() == 1).sum())
    recipe = load_recipe("smoke", ["data.test_share=0.2", "training.epochs=3"])
    (seconds,) = estimate_seconds([recipe], table)
    assert seconds == 3 * 512 * 2.0 + (3 + 1) * round(0.2 * single) * 0.5


def test_a_finished_run_takes_no_time(tmp_path: Path) -> None:
    recipe = load_recipe("smoke")
    runs = {PlannedRun("smoke", seed): recipe for seed in (0, 1)}
    done = RunDir(tmp_path / "runs/smoke-seed0")
    done.path.mkdir(parents=True)
    done.predictions().touch()
    first, _, last = describe_plan(runs, [50.0, 7300.0], tmp_path)
    assert first.endswith("finished")
    assert last.startswith("1 of 2 runs to train, at most 2 h 2 min")
