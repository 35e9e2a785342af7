import json
import threading
import time
from pathlib import Path

import pandas as pd
import pytest

from ham10000.data import CLASSES, load_table, read_split
from ham10000.errors import (
    ArgumentError,
    DataError,
    PredictionError,
    RecipeError,
    SplitError,
    TrainingError,
)
from ham10000.evaluation import Predictions, write_predictions
from ham10000.study import study
from ham10000.study.plan import PlannedRun
from ham10000.study.study import RunTrainer, train_missing, worker_environments
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

    def guess(self: RunTrainer, run: PlannedRun, environment: dict[str, str]) -> None:
        split = pd.read_csv(self.study / "split.csv", dtype=str)
        if run.fold is not None:
            split = split[split["fold"] == str(run.fold)]
        tested = split[split["split"] == "test"].reset_index(drop=True)
        right = 0.3 + 0.05 * run.seed + 0.1 * (run.recipe == "sa")
        shares = {
            name: [right if dx == name else (1 - right) / 6 for dx in tested["dx"]]
            for name in CLASSES
        }
        columns = ["image_id", "lesion_id", "dx", "split"]
        table = pd.concat([tested[columns], pd.DataFrame(shares)], axis=1)
        write_predictions(Predictions(table), RunDir(self.study / run.folder).predictions())
        done.append(run.folder)

    monkeypatch.setattr(RunTrainer, "__call__", guess)
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
    read_split(out / "split.csv", load_table(synthetic))
    assert (out / "cache-16").is_dir()
    assert said[0].endswith("folds x (seeds - 1) is below 5. 6 seeds are needed.")
    assert said[1].startswith("4 runs, 4 to train")
    assert "sa instead of bare: too few runs for a verdict" in result["verdicts"]["sa"]


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
    # All classes are always ranked correctly.
    assert result["comparisons"]["bare"]["auc_macro"]["outcome"] == "equivalent"


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
    with pytest.raises(RecipeError, match=r"model\.num_maps 3, and the plan has 16"):
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
    (tmp_path / "study/plan.json").unlink()  # without a look, the test images still must be right
    path.write_text("".join(rows[:-1]))
    with pytest.raises(PredictionError, match=r"no row for the image .* the test set of"):
        run(recipes, synthetic, tmp_path / "study")


RUNS = [PlannedRun("bare", seed) for seed in range(5)]


def test_a_run_is_the_command_that_a_person_would_type(tmp_path: Path) -> None:
    trainer = RunTrainer(tmp_path, {"bare": Path("bare.yaml")}, ["data.size=64"])
    command = trainer.command(PlannedRun("bare", 3, fold=1))
    assert command[1:5] == ["-m", "ham10000", "train", "bare.yaml"]
    assert command[5:] == [
        "--out",
        str(tmp_path / "runs/bare-seed3-fold1"),
        "--processes",
        "1",
        "--seed=3",
        "--data.fold=1",
        "--data.size=64",
    ]


def test_a_failure_quotes_the_output_of_the_run(tmp_path: Path) -> None:
    trainer = RunTrainer(tmp_path, {"bare": tmp_path / "nowhere.yaml"}, [])
    with pytest.raises(TrainingError, match=r"exited with status 1.*nowhere\.yaml"):
        trainer(PlannedRun("bare", 0), {})


def test_an_environment_has_one_run_at_a_time() -> None:
    lock, busy, most = threading.Lock(), set[str](), 0

    def trainer(run: PlannedRun, environment: dict[str, str]) -> None:
        nonlocal most
        with lock:
            assert environment["name"] not in busy
            busy.add(environment["name"])
            most = max(most, len(busy))
        time.sleep(0.02)
        with lock:
            busy.remove(environment["name"])

    said: list[str] = []
    train_missing(trainer, RUNS, [{"name": "a"}, {"name": "b"}], said.append)
    assert most == 2
    assert said[-1].endswith("trained, 5 of 5")
    assert {line.partition(":")[0] for line in said} == {run.folder for run in RUNS}


def test_no_run_starts_after_a_failure() -> None:
    begun: list[int] = []

    def trainer(run: PlannedRun, environment: dict[str, str]) -> None:
        begun.append(run.seed)
        time.sleep(0.02)
        raise TrainingError("no")

    with pytest.raises(TrainingError):
        train_missing(trainer, RUNS, [{}, {}])
    assert len(begun) <= 2


@pytest.mark.parametrize(
    ("gpus", "cores", "parallel", "processes", "runs", "expected"),
    [
        (0, 8, None, 1, 3, [{"OMP_NUM_THREADS": "2"}] * 3),
        (0, 2, None, 1, 4, [{"OMP_NUM_THREADS": "1"}] * 2),
        (0, 2, 1, 1, 4, [{"OMP_NUM_THREADS": "2"}]),
        (2, 8, None, 1, 4, [{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}]),
        (0, 8, None, 2, 4, [{"OMP_NUM_THREADS": "1"}] * 4),
        (4, 8, None, 2, 4, [{"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "2,3"}]),
        (0, 2, None, 1, 0, [{"OMP_NUM_THREADS": "2"}]),
    ],
)
def test_worker_environments(
    gpus: int,
    cores: int,
    parallel: int | None,
    processes: int,
    runs: int,
    expected: list[dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(study.torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(study, "available_cores", lambda: cores)
    assert worker_environments(parallel, runs, processes) == expected
