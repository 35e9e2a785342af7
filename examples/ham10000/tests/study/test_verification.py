import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from ham10000.study.preregistration import content_hash
from ham10000.study.results import publish_study
from ham10000.study.verification import quote_results, verify_study


@pytest.fixture
def copy(published: Path, tmp_path: Path) -> Path:
    """Published results that a test may change."""
    return Path(shutil.copytree(published, tmp_path / "ours"))


def edit_table(path: Path, edit: Callable[[pd.DataFrame], pd.DataFrame]) -> None:
    table = edit(pd.read_csv(path, dtype=str, keep_default_na=False))
    table.to_csv(path, index=False, lineterminator="\n")


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))


def swap(table: pd.DataFrame) -> pd.DataFrame:
    """Swap two probabilities of one image, so that the row is still valid."""
    table.loc[5, ["mel", "bkl"]] = table.loc[5, ["bkl", "mel"]].to_numpy()
    return table


def test_all_numbers_are_recomputed(published: Path) -> None:
    found = verify_study(published)
    assert found.problems == []
    assert found.describe() == "ours: 16 runs, all numbers recomputed from predictions"


def test_numbers_are_recomputed_from_metrics_without_predictions(
    finished: Path, tmp_path: Path
) -> None:
    publish_study(finished, tmp_path / "ours", seeds=1)
    found = verify_study(tmp_path / "ours")
    assert found.problems == []
    assert "16 runs, metrics of 4 recomputed from predictions" in found.describe()
    edit_table(tmp_path / "ours/metrics.csv.bz2", lambda t: t.assign(auc_macro="0.9"))
    problems = verify_study(tmp_path / "ours").problems
    assert any("runs/bare-seed0-fold0: auc_macro is 0.9, recomputed" in one for one in problems)
    assert any("comparisons.sa.auc_macro.mean" in one for one in problems)


def test_a_changed_prediction_is_found(copy: Path) -> None:
    edit_table(copy / "predictions-seed1.csv.bz2", swap)
    problems = verify_study(copy).problems
    assert problems[0] == (
        "the predictions of runs/bare-seed1-fold0 do not match their hash in look 1 of plan.json"
    )
    assert any(one.startswith("metrics.csv.bz2, runs/bare-seed1-fold0: ") for one in problems)
    assert any(one.startswith("study.json: comparisons.sa.log_loss.mean is") for one in problems)


def test_a_changed_prediction_is_found_even_with_a_new_hash(copy: Path) -> None:
    edit_table(copy / "predictions-seed1.csv.bz2", swap)

    def rewrite(content: dict[str, Any]) -> None:
        _plan, look = content["entries"]
        look["predictions"] = {}
        look["hash"] = content_hash({k: v for k, v in look.items() if k != "hash"})

    edit_json(copy / "plan.json", rewrite)
    problems = verify_study(copy).problems
    assert any("study.json: comparisons.sa.log_loss.mean is" in one for one in problems)


def test_an_edited_result_is_found(copy: Path) -> None:
    def rewrite(content: dict[str, Any]) -> None:
        content["verdicts"]["sa"] = "better"
        content["comparisons"]["sa"]["brier"]["p_holm"] = 0.5
        content["images"] = 3

    edit_json(copy / "study.json", rewrite)
    problems = verify_study(copy).problems
    for message in (
        "study.json: verdicts.sa is 'better', recomputed 'Look 1 of 2: sa instead of bare",
        "study.json: comparisons.sa.brier.p_holm is 0.5, recomputed",
        "study.json: images is 3, recomputed 168",
        "the verdicts in study.json are not those of look 1 in plan.json",
        "README.md differs",
    ):
        assert any(one.startswith(message) for one in problems), message


def test_an_edited_plan_is_found(copy: Path) -> None:
    edit_json(copy / "plan.json", lambda content: content["entries"][0].update(primary="brier"))
    (problem,) = verify_study(copy).problems
    assert "entry 1 does not match its hash" in problem


def test_a_result_of_other_seeds_is_found(copy: Path) -> None:
    edit_json(copy / "study.json", lambda content: content.update(seeds=[0, 1, 2, 9]))
    assert any("lacks runs/bare-seed9-fold0" in one for one in verify_study(copy).problems)


def test_other_edited_files_are_found(copy: Path) -> None:
    edit_table(copy / "split.csv.xz", lambda table: table[1:])
    (copy / "recipes/sa.yaml").write_text("name: sa\n")
    (copy / "README.md").write_text("sa is better.\n")
    shutil.copy(copy / "predictions-seed0.csv.bz2", copy / "predictions-seed7.csv.bz2")
    problems = verify_study(copy).problems
    for message in (
        "split.csv.xz does not match the hash",
        "recipes/sa.yaml differs",
        "README.md differs",
        "predictions-seed7.csv.bz2 is of no seed of the plan",
    ):
        assert any(message in one for one in problems), message


def test_missing_files_are_found(copy: Path) -> None:
    (copy / "study.json").unlink()
    edit_table(
        copy / "predictions-seed1.csv.bz2",
        lambda table: table[table["recipe"] != "sa"],
    )
    problems = verify_study(copy).problems
    assert any("study.json is missing" in one for one in problems)
    assert any("seed1.csv.bz2 lacks the predictions of runs/sa-seed1-fold0" in p for p in problems)
    (copy / "split.csv.xz").unlink()
    assert verify_study(copy).problems[-1].startswith("it cannot be read: FileNotFoundError")


def test_quotations_on_pages_are_compared_and_written(published: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "Quote with `<!-- results ours PART -->` and `<!-- end results -->`. "
        "Attention changed <!-- results ours sa auc_macro -->macro AUC<!-- end results -->.\n\n"
        "<!-- results ours differences -->\n<!-- end results -->\n"
    )
    results = published.parent
    assert len(quote_results(page, results)) == 2
    assert quote_results(page, results, write=True) == []
    text = page.read_text()
    assert "PART -->` and `<!-- end results -->`. Attention changed <!--" in text
    assert "Attention changed <!-- results ours sa auc_macro -->macro AUC by +" in text
    assert "-->\n\n| metric | arm |" in text
    assert quote_results(page, results) == []
    page.write_text(text.replace("macro AUC by +", "macro AUC by +9"))
    assert "the quotation 'sa auc_macro' of ours differs" in quote_results(page, results)[0]
    page.write_text("<!-- results ours sa auc -->x<!-- end results -->")
    (problem,) = quote_results(page, results, write=True)
    assert "no 'sa auc' in ours. Closest: sa auc" in problem


def test_populations_are_those_of_the_lesions_sizes(published: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- results ours populations -->\n<!-- end results -->\n")
    assert quote_results(page, published.parent, write=True) == []
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if "|" in line]
    assert rows[0][:3] == ["lesions with", "test images", "macro AUC"]
    found = {row[0]: row[1:] for row in rows[2:]}
    split = pd.read_csv(published / "split.csv.xz", dtype=str)
    tested = split[split["split"] == "test"]
    sizes = tested.groupby("lesion_id")["image_id"].transform("nunique")
    several = tested[sizes > 1]
    assert found["all"][0] == str(len(tested))
    assert found["several images"][0] == str(len(several))
    areas = []
    for seed in (0, 1, 2, 3):
        table = pd.read_csv(published / f"predictions-seed{seed}.csv.bz2")
        bare = table[table["recipe"] == "bare"]
        for _, fold in several.groupby("fold"):
            rows_of_fold = fold.merge(bare, on="image_id")
            is_mel = rows_of_fold["dx"] == "mel"
            areas.append(roc_auc_score(is_mel, rows_of_fold["mel"]))
    assert found["several images"][3] == f"{sum(areas) / len(areas):.3f}"


def test_differences_in_each_fold_are_means_over_its_seeds(published: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- results ours folds -->\n<!-- end results -->\n")
    assert quote_results(page, published.parent, write=True) == []
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if "|" in line]
    assert rows[0] == ["arm", "fold 1", "fold 2"]
    table = pd.read_csv(published / "metrics.csv.bz2").set_index(["recipe", "fold"])["auc_macro"]
    expected = [(table["sa", fold].mean() - table["bare", fold].mean()) for fold in (0, 1)]
    assert rows[2] == ["sa", *(f"{value:+.4f}" for value in expected)]


def test_means_over_studies_with_a_split_each(copy: Path, tmp_path: Path) -> None:
    for number in (0, 1):
        folder = Path(shutil.copytree(copy, tmp_path / f"split-{number}"))

        def change(table: pd.DataFrame, number: int = number) -> pd.DataFrame:
            accuracy = (table["recipe"] == "sa").map({True: 0.5 + 0.1 * number, False: 0.25})
            precision = (table["recipe"] == "sa").map({True: 0.8 + 0.1 * number, False: 0.7})
            return table.assign(accuracy=accuracy, precision_weighted=precision)

        edit_table(folder / "metrics.csv.bz2", change)
    page = tmp_path / "page.md"
    page.write_text("<!-- results split-* splits -->\n<!-- end results -->\n")
    assert quote_results(page, tmp_path, write=True) == []
    rows = [line.strip("| ").split(" | ") for line in page.read_text().splitlines() if "|" in line]
    assert rows[0][-1] == "weighted precision: difference from bare"
    assert rows[2][:3] == ["bare", "0.700 ± 0.000", "0.250 ± 0.000"]
    assert rows[3][:3] == ["sa", "0.850 ± 0.071", "0.550 ± 0.071"]
    assert rows[3][-1] == "+0.150 ± 0.071"
    page.write_text("<!-- results split-* verdicts -->\n<!-- end results -->\n")
    (problem,) = quote_results(page, tmp_path)
    assert "there is no 'verdicts' in split-*" in problem


def test_where_attention_looks_is_checked_quoted_and_kept(finished: Path, tmp_path: Path) -> None:
    folder, page = tmp_path / "ours", tmp_path / "page.md"
    publish_study(finished, folder)
    split = pd.read_csv(folder / "split.csv.xz", dtype=str)
    tested = split[split["split"] == "test"][["image_id", "lesion_id", "dx", "fold"]]
    scores = dict.fromkeys(("pointing_game", "energy_inside", "iou", "deletion", "insertion"), 0.5)
    maps = dict.fromkeys(("entropy", "effective_maps", "constant_maps", "deviation"), 0.25)
    table = tested.assign(
        recipe="sa", method="attention", **scores, **maps, gamma_before=1.0, gamma_after=1.1
    )
    table.to_csv(folder / "maps.csv.bz2", index=False)
    publish_study(finished, folder)
    assert verify_study(folder).problems == []
    page.write_text("<!-- results ours maps -->\n<!-- end results -->\n")
    assert quote_results(page, tmp_path, write=True) == []
    assert "| sa | 0.250 (0.250 to 0.250) |" in page.read_text()
    edit_table(folder / "maps.csv.bz2", lambda t: t.assign(fold="7", entropy="0.5"))
    assert any("not in the test set" in one for one in verify_study(folder).problems)
    assert "the quotation 'maps' of ours differs" in quote_results(page, tmp_path)[0]
