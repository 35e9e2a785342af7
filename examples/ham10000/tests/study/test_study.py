import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from studies import guess

from ham10000.data import (
    load_table,
    open_cache,
    paper_split,
    prepare,
    read_split,
    write_split,
)
from ham10000.errors import (
    ArgumentError,
    CacheError,
    DataError,
    LockedError,
    PredictionError,
    RecipeError,
    SplitError,
)
from ham10000.study import study
from ham10000.study.launcher import RunTrainer
from ham10000.study.plan import PlannedRun
from ham10000.study.results import publish_study
from ham10000.training import RunDir


@pytest.fixture
def recipes(tmp_path: Path) -> list[Path]:
    files = [tmp_path / "bare.yaml", tmp_path / "sa.yaml"]
    for path in files:
        path.write_text(
            f"name: {path.stem}\ndata: {{size: 16, protocol: paper}}\n"
            "model: {backbone: 'ham10000:tiny'}\n"
        )
    return files


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace training by a quick random guess, and return the runs that were trained."""
    done: list[str] = []

    def train(self: RunTrainer, run: PlannedRun, environment: dict[str, str]) -> None:
        guess(self, run, environment)
        done.append(run.folder)

    monkeypatch.setattr(RunTrainer, "__call__", train)
    return done


def run(recipes: list[Path], data: Path, out: Path, **kwargs: object) -> dict[str, object]:
    kwargs.setdefault("seeds", [0, 1])
    return study.run_study(recipes, out=out, overrides=[f"data.root={data}"], **kwargs)


def test_a_study_is_a_folder(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    out, said = tmp_path / "study", list[str]()
    result = run(recipes, synthetic, out, log=said.append)
    assert sorted(trained) == sorted(one["folder"] for one in result["runs"])
    assert json.loads((out / "study.json").read_text()) == result
    plan, look = json.loads((out / "plan.json").read_text())["entries"]
    assert plan["rule"] == result["rule"]
    assert plan["recipe_fields"]["sa"]["data.size"] == 16
    assert look["verdicts"] == result["verdicts"]
    assert look["predictions"].keys() == set(trained)
    assert [one["number"] for one in result["looks_taken"]] == [1]
    assert result["models"]["bare"] == result["models"]["sa"]
    assert result["models"]["sa"]["trained"]["backbone"] == 7264
    read_split(out / "split.csv", load_table(synthetic))
    assert (out / "cache-16").is_dir()
    assert said[0].endswith("folds x (seeds - 1) is below 5. 6 seeds are needed.")
    assert "relative to bare" in " ".join(said[1].split())
    assert max(map(len, said[1].splitlines())) <= 80
    assert said[2] == "4 runs, 4 to train"
    assert said[3].endswith("at a time on this machine")
    assert said[-1].endswith(": trained, 4 of 4")
    assert "sa instead of bare: too few runs for a verdict" in result["verdicts"]["sa"]


def test_a_study_needs_no_weights_of_runs_from_elsewhere(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    said = list[str]()
    for path in recipes:
        path.write_text(path.read_text().replace("tiny'", "tiny', weights: gone.pth"))
    result = run(recipes, synthetic, tmp_path / "study", log=said.append)
    assert said[1].startswith("The models cannot be compared: loading the weights gone.pth")
    assert result["models"] == {}
    assert trained


def test_what_is_there_is_not_trained_again(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    before = run(recipes, synthetic, tmp_path / "study")
    split = (tmp_path / "study/split.csv").read_bytes()
    del trained[:]
    assert run(recipes, synthetic, tmp_path / "study") == before
    assert trained == []
    larger = run(recipes, synthetic, tmp_path / "study", seeds=[0, 1, 7], extend=True)
    assert larger["verdicts"]["sa"].startswith("Exploratory (look 2, after 1 planned look): ")
    assert sorted(trained) == ["runs/bare-seed7", "runs/sa-seed7"]
    assert (tmp_path / "study/split.csv").read_bytes() == split


def test_folds_test_every_image_once(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    result = run(recipes, synthetic, tmp_path / "study", folds=3)
    assert len(trained) == 12
    assert result["images"] == len(load_table(synthetic))


def test_enough_folds_and_seeds_give_a_verdict_on_the_arms(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    options = {"folds": 3, "seeds": [0, 1, 2], "primary": "brier", "control": "sa"}
    result = run(recipes, synthetic, tmp_path / "study", **options)
    assert result["verdicts"].keys() == {"bare"}
    assert result["verdicts"]["bare"].startswith("bare instead of sa changed Brier score by +")
    assert result["verdicts"]["bare"].endswith("bare is worse.")
    # All classes are always ranked correctly, so nothing is known about its variation.
    assert result["comparisons"]["bare"]["auc_macro"]["outcome"] == "undecided"


def test_another_study_in_the_folder_is_refused(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    run(recipes, synthetic, tmp_path / "study")
    with pytest.raises(ArgumentError, match="plan has primary 'auc_macro'"):
        run(recipes, synthetic, tmp_path / "study", primary="accuracy")
    with pytest.raises(ArgumentError, match="plan has control 'bare', not 'sa'"):
        run(recipes[::-1], synthetic, tmp_path / "study")


def test_a_recipe_that_changed_meanwhile_is_refused_before_training(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    run(recipes, synthetic, tmp_path / "study")
    del trained[:]
    recipes[1].write_text(recipes[1].read_text() + "optimizer: {lr: 0.5}\n")
    with pytest.raises(RecipeError, match=r"optimizer.lr"):
        run(recipes, synthetic, tmp_path / "study", seeds=[0, 1, 2], extend=True)
    assert trained == []


def test_some_of_the_planned_seeds_are_refused(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    before = run(recipes, synthetic, tmp_path / "study", seeds=[0, 1, 2])
    with pytest.raises(ArgumentError, match="the seeds 0, 1, 2, and 1 would be left out"):
        run(recipes, synthetic, tmp_path / "study", seeds=[0, 2])
    with pytest.raises(ArgumentError, match="Pass --extend"):
        run(recipes, synthetic, tmp_path / "study", seeds=[0, 1, 2, 3])
    assert json.loads((tmp_path / "study/study.json").read_text()) == before


@pytest.mark.parametrize(
    ("override", "folds"), [("seed=7", None), ("data.fold=1", 3), ("name=x", None)]
)
def test_runs_cannot_be_made_equal(
    recipes: list[Path],
    synthetic: Path,
    tmp_path: Path,
    trained: list[str],
    override: str,
    folds: int | None,
) -> None:
    overrides = [f"data.root={synthetic}", override]
    with pytest.raises(ArgumentError, match=f"{override} would be the same in all runs"):
        study.run_study(recipes, [0, 1], tmp_path / "study", folds=folds, overrides=overrides)
    assert not (tmp_path / "study").exists()


def test_runs_that_were_trained_in_another_way_are_refused(
    recipes: list[Path], synthetic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(self: RunTrainer, run: PlannedRun, environment: dict[str, str]) -> None:
        guess(self, run, environment)
        path = RunDir(self.study / run.folder).recipe
        path.write_text(re.sub(r"^seed: .*", "seed: 0", path.read_text(), flags=re.MULTILINE))

    monkeypatch.setattr(RunTrainer, "__call__", train)
    with pytest.raises(RecipeError, match="bare-seed1 was trained with seed 0, and the plan has 1"):
        run(recipes, synthetic, tmp_path / "study")


def test_another_split_is_refused(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    run(recipes, synthetic, tmp_path / "study")
    table = load_table(synthetic)
    write_split(paper_split(table, seed=5), tmp_path / "other.csv")
    for more, message in (
        (f"data.split={tmp_path / 'other.csv'}", r"split\.csv is not the split .*other\.csv"),
        ("data.split_seed=5", "drawn with data.split_seed None, not 5"),
    ):
        overrides = [f"data.root={synthetic}", more]
        with pytest.raises(SplitError, match=message):
            study.run_study(recipes, [0, 1], tmp_path / "study", overrides=overrides)
    same = [f"data.root={synthetic}", f"data.split={tmp_path / 'study/split.csv'}"]
    study.run_study(recipes, [0, 1], tmp_path / "study", overrides=same)


def test_a_damaged_cache_is_rebuilt(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    before = run(recipes, synthetic, tmp_path / "study")
    (tmp_path / "study/cache-16/cache.json").write_text("{")
    assert run(recipes, synthetic, tmp_path / "study") == before
    assert not prepare(synthetic, tmp_path / "study/cache-16", 16).built


def test_finished_runs_of_other_images_are_refused(
    recipes: list[Path], editable: Path, tmp_path: Path, trained: list[str]
) -> None:
    run(recipes, editable, tmp_path / "study")
    images = RunDir(tmp_path / "study/runs/sa-seed1").images
    images.write_text(f"{open_cache(tmp_path / 'study/cache-16').inputs}\n")
    run(recipes, editable, tmp_path / "study")
    Image.new("RGB", (48, 36), "red").save(next(editable.rglob("*.jpg")))
    with pytest.raises(CacheError, match="have changed since runs/sa-seed1 was trained"):
        run(recipes, editable, tmp_path / "study", seeds=[0, 1, 2], extend=True)


def test_a_study_is_of_ham10000(recipes: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"data\.set is isic2017-keratosis in bare"):
        study.run_study(
            recipes,
            [0, 1],
            tmp_path / "study",
            overrides=["data.set=isic2017-keratosis", "data.protocol=published"],
        )


def test_an_edited_plan_is_refused(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    run(recipes, synthetic, tmp_path / "study", primary="accuracy")
    path = tmp_path / "study/plan.json"
    path.write_text(path.read_text().replace('"accuracy"', '"f1_macro"'))
    with pytest.raises(DataError, match="entry 1 does not match its hash"):
        run(recipes, synthetic, tmp_path / "study", primary="f1_macro")


def test_a_changed_split_is_refused(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    run(recipes, synthetic, tmp_path / "study")
    path = tmp_path / "study/split.csv"
    rows = path.read_text().splitlines()
    path.write_text("\n".join([rows[0], *reversed(rows[1:])]) + "\n")
    run(recipes, synthetic, tmp_path / "study")  # the order of rows has no meaning
    path.write_text(path.read_text().replace(",train", ",test", 1))
    with pytest.raises(SplitError, match=r"split\.csv was changed"):
        run(recipes, synthetic, tmp_path / "study")


def test_runs_need_only_their_predictions(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    before = run(recipes, synthetic, tmp_path / "study")
    for folder in list(trained):
        for path in (tmp_path / "study" / folder).iterdir():
            if path.name != "predictions.csv":
                path.unlink()
    (tmp_path / "study/study.json").unlink()
    del trained[:]
    assert run(recipes, synthetic, tmp_path / "study") == before
    assert trained == []
    assert (tmp_path / "study/study.json").exists()


def test_runs_of_another_recipe_or_seed_are_refused(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    run(recipes, synthetic, tmp_path / "study")
    folder = tmp_path / "study/runs/sa-seed1"
    recipe = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(recipe.replace("seed: 1", "seed: 5"))
    with pytest.raises(RecipeError, match="sa-seed1 was trained with seed 5, and the plan has 1"):
        run(recipes, synthetic, tmp_path / "study")
    (folder / "recipe.yaml").write_text(recipe.replace("num_maps: 16", "num_maps: 3"))
    with pytest.raises(RecipeError, match=r"attention\.num_maps 3, and the plan has 16"):
        run(recipes, synthetic, tmp_path / "study")


def test_other_predictions_are_refused(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    run(recipes, synthetic, tmp_path / "study")
    path = tmp_path / "study/runs/sa-seed1/predictions.csv"
    rows = path.read_text().splitlines(keepends=True)
    better = (tmp_path / "study/runs/sa-seed0/predictions.csv").read_text()
    path.write_text(better)
    with pytest.raises(PredictionError, match="runs/sa-seed1 have changed since look 1"):
        run(recipes, synthetic, tmp_path / "study")
    # Without a look, the test images still must be right.
    for name in ("plan.json", "study.json"):
        (tmp_path / "study" / name).unlink()
    path.write_text("".join(rows[:-1]))
    with pytest.raises(PredictionError, match=r"no row for the image .* the test set of"):
        run(recipes, synthetic, tmp_path / "study")


def test_a_second_study_in_the_folder_is_refused_while_the_first_trains(
    recipes: list[Path], synthetic: Path, tmp_path: Path, trained: list[str]
) -> None:
    refusals: list[str] = []

    def log(line: str) -> None:
        if line.endswith(", 1 of 4"):
            before = (tmp_path / "study/plan.json").read_bytes()
            with pytest.raises(LockedError, match=r"a study in .+: process .+ has locked") as e:
                run(recipes, synthetic, tmp_path / "study", seeds=[0, 1, 2], extend=True)
            refusals.append(str(e.value))
            assert (tmp_path / "study/plan.json").read_bytes() == before

    run(recipes, synthetic, tmp_path / "study", log=log)
    assert len(refusals) == 1
    assert len(trained) == 4


def test_results_are_published_after_each_run_and_restored_elsewhere(
    recipes: list[Path],
    synthetic: Path,
    tmp_path: Path,
    trained: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds: list[int] = []

    def publish(out: Path, folder: Path, number: int | None, **options: Any) -> None:
        publish_study(out, folder, number, **options)
        seeds.append(len(list(folder.glob("predictions-*"))))

    monkeypatch.setattr(study, "publish_study", publish)
    results = tmp_path / "results/ours"
    before = run(recipes, synthetic, tmp_path / "study", publish=results, parallel=1)
    assert seeds == [1, 2, 2, 2, 2]
    assert (results / "study.json").exists()
    del trained[:]
    options = {"restore": results, "publish": results, "publish_seeds": 1}
    after = run(recipes, synthetic, tmp_path / "elsewhere", **options)
    assert after["verdicts"] == before["verdicts"]
    # The restored rows are in another order, in which sums have other rounding errors.
    means = [one["metrics"]["brier"]["sa"]["mean"] for one in (before, after)]
    assert means[0] == pytest.approx(means[1], abs=1e-12)
    assert trained == []
    assert seeds == [1, 2, 2, 2, 2, 1]
