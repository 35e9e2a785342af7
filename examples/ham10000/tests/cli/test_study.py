import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from studies import guess

from ham10000.cli import main, study
from ham10000.data import DATA_VARIABLE, find_table, open_folder, read_table, synthesize
from ham10000.recipe import shipped_recipes
from ham10000.study import JobOptions
from ham10000.study.launcher import RunTrainer


def test_study_takes_names_and_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    monkeypatch.setattr(study, "run_study", lambda *args, **kw: calls.append((args, kw)) or {})
    monkeypatch.setattr(study, "print_study", lambda result: None)
    arguments = ["lite0", "lite0_sa", "--seeds", "0", "1", "--out", str(tmp_path), "data.size=64"]
    arguments += ["--control", "lite0_sa"]
    assert main(["study", *arguments]) == 0
    (((recipes, seeds, out), options),) = calls
    shipped = shipped_recipes()
    assert recipes == [shipped["lite0"], shipped["lite0_sa"]]
    assert (list(seeds), out) == ([0, 1], tmp_path)
    assert options["overrides"] == ["data.size=64"]
    assert (options["primary"], options["control"]) == ("auc_macro", "lite0_sa")
    assert f"ham10000 report {tmp_path}" in capsys.readouterr().out


def test_study_on_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(study, "run_study", lambda *args, **options: calls.append(options) or {})
    monkeypatch.setattr(study, "print_study", lambda result: None)
    arguments = ["lite0", "lite0_sa", "--seeds", "0", "1", "--out", str(tmp_path)]
    slurm = ["--partition", "gpu", "--timeout-min", "90", "--gpus-per-node", "1"]
    slurm += ["--cpus-per-task", "8", "--mem-gb", "32", "--sbatch", "--account=vision --qos=high"]
    assert main(["study", *arguments, "--launcher", "submitit", *slurm, "seed=3"]) == 0
    assert main(["study", *arguments, "--launcher", "submitit", "--sbatch", "account=vision"]) == 0
    assert main(["study", *arguments]) == 0
    assert [call["jobs"] for call in calls] == [
        JobOptions("gpu", 90, 1, 8, 32, "--account=vision --qos=high"),
        JobOptions(sbatch="account=vision"),
        None,
    ]
    assert main(["study", *arguments, "--mem-gb", "32"]) == 1
    assert "--mem-gb needs --launcher submitit" in capsys.readouterr().err


def test_study_of_an_unknown_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "study"
    assert main(["study", "lite0", "lite0_s", "--seeds", "0", "1", "--out", str(out)]) == 1
    assert ", lite0_sa," in capsys.readouterr().err
    assert not out.exists()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Arguments of the study and of the report, which are not run."""
    found: dict[str, Any] = {}

    def run_study(recipes: list[Path], **options: Any) -> dict[str, dict[str, str]]:
        found.update(options, recipes=[path.stem for path in recipes])
        return {"verdicts": {"frozen_sa": "undecided"}}

    def write_report(folders: list[Path], page: Path, faithful: int) -> Path:
        found.update(report=folders, faithful=faithful)
        return page

    monkeypatch.setattr(study, "run_study", run_study)
    monkeypatch.setattr(study, "print_study", lambda result: print(*result["verdicts"].values()))
    monkeypatch.setattr(study, "write_report", write_report)
    monkeypatch.setattr(study, "_DEMO_IMAGES", 28)
    return found


def test_a_demo_without_a_data_set_generates_one_once(
    calls: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert len(read_table(find_table(tmp_path / "data"))) == 28
    assert calls["recipes"] == ["frozen", "frozen_placebo", "frozen_sa"]
    assert (calls["folds"], calls["seeds"]) == (5, (0, 1))
    assert calls["out"] == tmp_path / "study"
    assert calls["report"] == [tmp_path / "study"]
    assert f"data.root={(tmp_path / 'data').absolute()}" in calls["overrides"]
    first = capsys.readouterr().out
    assert first.startswith("Generating 28 synthetic images")
    assert f"undecided\nThe report: {tmp_path / 'report.html'}" in first
    assert main(["demo", "--out", str(tmp_path)]) == 0
    assert "Generating" not in capsys.readouterr().out


def test_a_demo_uses_random_lesions_of_an_existing_data_set(
    calls: dict[str, Any],
    synthetic: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(DATA_VARIABLE, str(synthetic))
    monkeypatch.setattr(study, "_DEMO_SAMPLE", 40)
    for options in ([], ["--data", str(synthetic)]):
        assert main(["demo", "--out", str(tmp_path), *options]) == 0
        assert f"data.root={(tmp_path / 'data').absolute()}" in calls["overrides"]
    sample = open_folder(tmp_path / "data")
    assert 40 <= len(sample.table) < len(open_folder(synthetic).table)
    printed = capsys.readouterr().out
    assert printed.count(f"Using random lesions of {synthetic}, {len(sample.table)} images") == 1


def test_a_demo_does_not_mix_data_sets(
    calls: dict[str, Any], synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(tmp_path / "demo" / "data", 28, seed=0, width=60)
    out = str(tmp_path / "demo")
    assert main(["demo", "--out", out, "--data", str(synthetic)]) == 1
    assert f"is not a sample of {synthetic}. Pass another folder" in capsys.readouterr().err
    assert "recipes" not in calls


@pytest.fixture(scope="module")
def finished(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study from the command line, with two recipes beside it."""
    folder = tmp_path_factory.mktemp("finished")
    for name in ("bare", "sa"):
        (folder / f"{name}.yaml").write_text(
            f"name: {name}\ndata: {{size: 16, protocol: paper}}\n"
            "model: {backbone: 'ham10000:tiny'}\n"
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunTrainer, "__call__", guess)
        assert main(again(folder, synthetic)) == 0
    return folder


def again(folder: Path, data: Path, *options: str) -> list[str]:
    """The command line of the study in a folder."""
    seeds = [] if "--seeds" in options else ["--seeds", "0", "1"]
    recipes = [str(folder / f"{name}.yaml") for name in ("bare", "sa")]
    publish = ["--publish", str(folder / "results/ours"), f"data.root={data}"]
    return ["study", *recipes, "--out", str(folder / "study"), *publish, *seeds, *options]


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished study that a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def fewer_seeds(folder: Path) -> list[str]:
    return ["--seeds", "0", "2"]


def another_recipe(folder: Path) -> list[str]:
    path = folder / "sa.yaml"
    path.write_text(path.read_text() + "optimizer: {lr: 0.5}\n")
    return []


def another_split(folder: Path) -> list[str]:
    path = folder / "study/split.csv"
    path.write_text(path.read_text().replace(",train", ",test", 1))
    return []


def an_edited_plan(folder: Path) -> list[str]:
    path = folder / "study/plan.json"
    path.write_text(path.read_text().replace('"auc_macro"', '"brier"'))
    return ["--primary", "brier"]


def a_removed_look(folder: Path) -> list[str]:
    path = folder / "study/plan.json"
    plan, look = json.loads(path.read_text())["entries"]
    assert look["kind"] == "look"
    path.write_text(json.dumps({"entries": [plan]}))
    return ["--seeds", "0", "1", "2", "--extend"]


def a_removed_plan(folder: Path) -> list[str]:
    (folder / "study/plan.json").unlink()
    return ["--primary", "brier"]


def predictions_of_another_split(folder: Path) -> list[str]:
    # The look is removed with plan and result, as if the study had not ended.
    for name in ("plan.json", "study.json"):
        (folder / "study" / name).unlink()
    path = folder / "study/runs/sa-seed1/predictions.csv"
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join([rows[0], rows[1].replace("ISIC_", "OTHER_"), *rows[2:]]))
    return []


def predictions_after_a_look(folder: Path) -> list[str]:
    path = folder / "study/runs/sa-seed1/predictions.csv"
    path.write_text((folder / "study/runs/sa-seed0/predictions.csv").read_text())
    return []


def another_metric(folder: Path) -> list[str]:
    return ["--primary", "accuracy"]


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (fewer_seeds, "the seeds 0, 1, and 1 would be left out"),
        (another_recipe, "the recipe sa was changed after the plan was recorded: optimizer.lr"),
        (another_split, "split.csv was changed after the plan was recorded"),
        (an_edited_plan, "entry 1 does not match its hash, so the file was edited"),
        (a_removed_look, "which is not in plan.json, so plan.json was edited or removed"),
        (a_removed_plan, "study.json has look 1 at the result"),
        (predictions_of_another_split, "no row for the image"),
        (predictions_after_a_look, "runs/sa-seed1 have changed since look 1"),
        (another_metric, "its plan has primary 'auc_macro', not 'accuracy'"),
    ],
)
def test_a_study_cannot_be_rewritten(
    copy: Path,
    synthetic: Path,
    attempt: Callable[[Path], list[str]],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(RunTrainer, "__call__", lambda *args: pytest.fail("it was trained"))
    options = attempt(copy)
    path = copy / "study/study.json"
    result = path.read_bytes() if path.exists() else None
    assert main(again(copy, synthetic, *options)) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (path.read_bytes() if path.exists() else None) == result


def test_published_results_are_verified(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results, page = copy / "results", copy / "page.md"
    page.write_text("<!-- results ours verdicts -->\n\n- better\n\n<!-- end results -->\n")
    command = ["study", "--verify", str(results)]
    assert main(command) == 0
    assert "ours: 4 runs, all numbers recomputed" in capsys.readouterr().out
    assert main([*command, "--pages", str(page)]) == 1
    assert "the quotation 'verdicts' of ours differs" in capsys.readouterr().out
    path = results / "ours/predictions-seed0.csv.bz2"
    table = pd.read_csv(path, dtype=str)
    table.loc[3, ["mel", "nv"]] = table.loc[3, ["nv", "mel"]].to_numpy()
    table.to_csv(path, index=False)
    assert main(command) == 1
    printed = capsys.readouterr().out
    assert "ours: the predictions of runs/bare-seed0 do not match their hash in look 1" in printed
    assert printed.endswith("differences\n")


def test_a_folder_without_studies_has_no_differences(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study", "--verify", str(tmp_path / "results")]) == 0
    assert capsys.readouterr().out.endswith("results: no differences\n")


def test_a_study_needs_recipes_seeds_and_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["study"]) == 1
    assert "running a study: recipes missing" in capsys.readouterr().err
    assert main(["study", "lite0", "lite0_sa", "--seeds", "0", "1"]) == 1
    assert "--out missing" in capsys.readouterr().err


def test_a_study_continues_from_published_results(
    copy: Path,
    synthetic: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.rmtree(copy / "study")
    page = copy / "page.md"
    page.write_text("<!-- results ours verdicts -->\n<!-- end results -->\n")
    monkeypatch.setattr(RunTrainer, "__call__", lambda *args: pytest.fail("it was trained"))
    options = ["--from", str(copy / "results/ours"), "--pages", str(page)]
    assert main(again(copy, synthetic, *options)) == 0
    assert "4 runs, 0 to train" in capsys.readouterr().out
    assert "- sa instead of bare: too few runs for a verdict" in page.read_text()
