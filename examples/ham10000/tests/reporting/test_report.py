import base64
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ham10000.data import CLASSES
from ham10000.errors import MissingDataError, PredictionError
from ham10000.evaluation import METRICS, make_predictions, metric_name
from ham10000.reporting import report
from ham10000.reporting.inputs import EvaluatedRun, ReportSource, open_source
from ham10000.reporting.report import (
    differing_section,
    gallery_section,
    results_section,
    saliency_section,
    setup_section,
    write_report,
)
from ham10000.training import open_run


@pytest.fixture(scope="module")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report([run], tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def study(run: Path, tmp_path: Path) -> Path:
    """A study of two recipes with one run each, which is the same."""
    estimate = {"mean": 0.5, "std": 0.1, "values": [[0.5]]}
    change = {"mean": 0.01, "low": -0.02, "high": 0.04, "p": 0.5, "p_holm": 1.0}
    change["outcome"] = "undecided"
    content = {
        "control": "plain",
        "arms": ["attended"],
        "look": {"number": 1, "level": 0.05, "exploratory": False},
        "secondaries": [],
        "recipes": ["plain", "attended"],
        "seeds": [0],
        "runs": [
            {"recipe": name, "seed": 0, "fold": None, "folder": f"runs/{name}-seed0"}
            for name in ("plain", "attended")
        ],
        "metrics": {name: {"plain": estimate, "attended": estimate} for name in METRICS},
        "comparisons": {"attended": dict.fromkeys(METRICS, change)},
        "verdicts": {"attended": "attended changed <nothing> of note."},
        "rule": "No evidence where the interval holds 0.",
        "primary": "balanced_accuracy",
        "margins": {"balanced_accuracy": 0.01},
        "models": {
            name: {
                "trained": {"backbone": 9, "attention": 1, "head": 3},
                "frozen": {"attention": 20_000},
                "head_input": [8, 2, 2],
                "head_input_std": 2.0,
                "num_maps": 16,
                "dropout": [],
            }
            for name in ("plain", "attended")
        },
    }
    for planned in content["runs"]:
        shutil.copytree(run, tmp_path / "study" / planned["folder"])
    (tmp_path / "study" / "study.json").write_text(json.dumps(content))
    return tmp_path / "study"


def test_the_page_of_a_run_has_every_part(page: Path) -> None:
    text = page.read_text()
    for title in ("Results of tiny_sa", "Saliency compared", "Examples", "Data, recipe"):
        assert title in text
    for where in ("attention", "Grad-CAM", "centred Gaussian", "random map"):
        assert f'<th scope="row">{where}</th>' in text
    assert "SHA-256" in text
    assert "backbone: ham10000:tiny" in text
    assert "<dt>backbone</dt><dd>ham10000:tiny</dd>" in text
    assert "<dt>input</dt><dd>24 x 24 pixels</dd>" in text
    assert text.count('class="case"') > len(CLASSES)
    for metric in METRICS:
        assert f">{metric_name(metric.partition('/')[0])}</th>" in text


def test_synthetic_data_are_marked_and_not_compared_with_published_results(page: Path) -> None:
    text = page.read_text()
    assert "<title>tiny_sa: report (synthetic data)</title>" in text
    assert "<strong>Synthetic data.</strong>" in text
    assert "<dt>data</dt><dd>synthetic data, 280 images</dd>" in text
    assert "Published" not in text
    assert "Inception-ResNet-v2" not in text
    assert "CC BY-NC" not in text


def test_every_entry_of_the_contents_has_its_section(study: Path, tmp_path: Path) -> None:
    page = write_report([study], tmp_path / "report.html", each=0, tables=["csv", "latex"])
    assert {path.name for path in (tmp_path / "report_tables").iterdir()} == {
        "comparison.csv",
        "attended_compared_with_plain.tex",
        "attended_compared_with_plain_other_metrics.tex",
    }
    text = page.read_text()
    targets = re.findall(r'href="#([^"]+)"', text)
    results = ["results-1", "results-2", "saliency", "differing", "gallery", "setup"]
    assert targets == ["comparison", *results]
    for target in targets:
        assert text.count(f'id="{target}"') == 1


def test_figures_of_an_evaluation_have_one_size(page: Path) -> None:
    grids = re.findall(r'<div class="grid">(.*?)</div>', page.read_text(), re.DOTALL)
    figures = re.findall(r'src="data:image/svg\+xml;base64,([^"]+)"', "".join(grids))
    sizes = {re.search(rb'viewBox="([^"]+)"', base64.b64decode(each))[1] for each in figures}
    assert len(figures) == 6
    assert len(sizes) == 1


def test_the_page_needs_nothing_and_every_picture_is_described(page: Path) -> None:
    text = page.read_text()
    assert not re.search(r"""(src|srcset|href)=["'](?!data:|#)""", text)
    pictures = re.findall(r"<img [^>]*>", text)
    assert len(pictures) > 20
    for picture in pictures:
        alt = re.search(r'alt="([^"]+)"', picture)
        assert alt is not None
        assert len(alt[1]) > 15


def test_saliency_is_measured_once(page: Path, run: Path, tmp_path: Path) -> None:
    place = run / "evaluation" / "localisation.json"
    before = place.stat().st_mtime_ns
    again = write_report([run], tmp_path / "again.html")
    assert place.stat().st_mtime_ns == before
    assert again.read_bytes() == page.read_bytes()


@pytest.mark.slow
def test_saliency_of_other_weights_is_measured_again(run: Path, page: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    place = copy / "evaluation" / "localisation.json"
    measured = json.loads(place.read_text())
    assert measured["weights"] == open_run(copy).weights_hash

    invented = {**measured, "mask_share": 0.99, "weights": "another"}
    place.write_text(json.dumps(invented))
    text = write_report([copy], tmp_path / "report.html").read_text()
    assert "cover 99% of an image" not in text
    assert json.loads(place.read_text()) == measured

    # Scores of another split are not used in the report, and are kept.
    place.write_text(json.dumps({**measured, "mask_share": 0.99, "split": "val"}))
    text = write_report([copy], tmp_path / "report.html").read_text()
    assert "cover 99% of an image" not in text
    assert json.loads(place.read_text())["split"] == "val"

    # Without weights, nothing can be measured again, and nothing contradicts what was.
    place.write_text(json.dumps({**measured, "mask_share": 0.99}))
    shutil.rmtree(copy / "checkpoints")
    text = write_report([copy], tmp_path / "report.html", each=0).read_text()
    assert "cover 99% of an image" in text


def test_deletion_and_insertion_are_drawn_and_attention_is_compared(page: Path) -> None:
    text = page.read_text()
    alt = re.search(r'alt="Deletion and insertion curves of tiny_sa\. ([^"]*)"', text)
    assert alt is not None
    assert alt[1].count("deletion 0.") == 4
    assert text.count('<th scope="col">attention minus</th>') == 2
    assert re.search(r"<td>[+-]0\.\d{3} <small>[+-]0\.\d{3} to [+-]0\.\d{3}</small></td>", text)


def test_predictions_of_other_images_than_the_splits_are_refused(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    path = copy / "predictions.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(PredictionError, match=r"no row has the image|no row"):
        write_report([copy], tmp_path / "report.html")


def test_a_study_says_its_verdict_and_what_changed(study: Path, tmp_path: Path) -> None:
    text = write_report([study], tmp_path / "report.html").read_text()
    assert "attended changed &lt;nothing&gt; of note." in text
    assert "No evidence where the interval holds 0." in text
    head = re.findall(r'<th scope="col">(.*?)</th>', text)
    assert head[:7] == ["metric", "plain", "attended", "difference", "p", "p (Holm)", "outcome"]
    row = re.search(r'<th scope="row">balanced accuracy</th>(.*?)</tr>', text, re.DOTALL)
    assert row is not None
    cells = ["0.5000", "0.5000", "+0.0100", "0.500", "1.000", "undecided"]
    assert re.findall(r"<td>([^ <]+)", row[1]) == cells
    assert "<td>1 + 20k" in text
    assert "relative to plain" in text
    assert "Results of plain" in text
    assert "Results of attended" in text


def test_runs_of_one_recipe_share_a_page_under_the_names_of_their_folders(
    run: Path, tmp_path: Path
) -> None:
    copies = [Path(shutil.copytree(run, tmp_path / name)) for name in ("seed0", "seed1")]
    for copy in copies:  # without weights, saliency is not measured
        shutil.rmtree(copy / "checkpoints")
        shutil.rmtree(copy / "evaluation", ignore_errors=True)
    text = write_report(copies, tmp_path / "report.html", each=0).read_text()
    assert "<title>seed0 and seed1: report (synthetic data)</title>" in text
    for name in ("seed0", "seed1"):
        assert f"<dt>balanced accuracy, {name}</dt>" in text
        assert f"Results of {name}</h2>" in text
    titles = re.findall(r"<h3>(.*?)</h3>", text)
    assert titles[0] == "All images"
    assert titles[4] == "Differences to seed0"
    assert "not tested on the same images" not in text


def test_without_the_data_the_page_says_what_is_missing(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    shutil.rmtree(copy / "evaluation", ignore_errors=True)
    recipe = copy / "recipe.yaml"
    recipe.write_text(re.sub(r"  root: .*", f"  root: {tmp_path / 'gone'}", recipe.read_text()))
    text = write_report([copy], tmp_path / "report.html").read_text()
    assert "Not measured: " in text
    assert "There is no gallery: " in text
    assert "CC BY-NC" not in text


def test_what_is_neither_run_nor_study_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match=r"neither the study\.json .* nor the recipe\.yaml"):
        write_report([tmp_path], tmp_path / "report.html")
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    (copy / "predictions.csv").unlink()
    with pytest.raises(MissingDataError, match="Resume training with: ham10000 train --resume"):
        write_report([copy], tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_complaint(
    browser: object, page: Path, width: int, scheme: str
) -> None:
    context = browser.new_context(  # type: ignore[attr-defined]
        viewport={"width": width, "height": 844}, color_scheme=scheme
    )
    shown = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []
    shown.on("console", lambda message: complaints.append(message.text))
    shown.on("pageerror", lambda error: complaints.append(str(error)))
    shown.on("request", lambda request: requests.append(request.url))
    shown.goto(page.as_uri())
    assert complaints == []
    assert [url for url in requests if not url.startswith("data:")] == [page.as_uri()]
    assert shown.evaluate("document.documentElement.scrollWidth") <= width
    narrow = "[...document.querySelectorAll('.scroll')].some(e => e.scrollWidth > e.clientWidth)"
    assert shown.evaluate(narrow) == (width == 390)
    assert shown.evaluate("[...document.images].every(image => image.naturalWidth > 0)")
    figure = "document.querySelector('.grid img').currentSrc"
    light = shown.evaluate("document.querySelector('.grid img').src")
    assert (shown.evaluate(figure) == light) == (scheme == "light")
    context.close()


@pytest.fixture
def evaluated(run: Path) -> EvaluatedRun:
    return open_source([run]).runs[0]


def test_results_have_all_metrics_and_five_figures(evaluated: EvaluatedRun) -> None:
    section = results_section(evaluated)
    averages = [name for name in METRICS if "/" not in name]
    assert len(section["metrics"].rows) == len(averages)
    assert len(section["classes"].rows) == 7
    assert [title.split()[0] for title, _ in section["figures"]] == [
        "Recall",
        "Confusion",
        "ROC",
        "Calibration",
        "Training",
    ]


def test_a_failure_to_measure_saliency_is_shown_instead(
    evaluated: EvaluatedRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise MissingDataError("there are no masks.")

    monkeypatch.setattr(report, "evaluate_saliency", fail)
    monkeypatch.setattr(report, "read_json", lambda path, optional: {})
    section = saliency_section(evaluated, None, 2)
    assert section["missing"] == "there are no masks."
    assert section["tables"] == section["figures"] == []


def test_the_gallery_prefers_a_run_with_attention(evaluated: EvaluatedRun) -> None:
    source = ReportSource("two", (evaluated, replace(evaluated, name="second")))
    assert gallery_section(source, None, each=0)["missing"] == "no images were requested."
    section = gallery_section(source, None, each=1)
    assert section["name"] == "second"
    assert section["attention"]
    assert all(len(each["pictures"]) == 2 for each in section["cases"])


def test_images_that_only_one_of_two_runs_gets_right(evaluated: EvaluatedRun) -> None:
    table = evaluated.predictions.table
    rolled = np.roll(table[list(CLASSES)].to_numpy(), 1, axis=1)
    other = replace(evaluated, name="other", predictions=make_predictions(table, rolled))
    assert differing_section(ReportSource("one", (evaluated,)), None, 1) == []
    (part,) = differing_section(ReportSource("both", (evaluated, other)), None, 1)
    targets = evaluated.predictions.targets
    right = [each.predictions.probabilities.argmax(1) == targets for each in (evaluated, other)]
    counts = [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())]
    assert min(counts) > 0
    assert part["counts"].head == ["class", "only tiny_sa is right", "only other is right"]
    assert part["counts"].rows[-1] == ["all", *map(str, counts)]
    for count, names in zip(counts, part["images"].values(), strict=True):
        assert len(names.split(", ")) == count
    of_classes = [row[1:] for row in part["counts"].rows[:-1]]
    assert len(part["cases"]) == sum(cell != "0" for row in of_classes for cell in row)
    case = part["cases"][0]
    row = other.predictions.table.set_index("image_id").loc[case["case"].image_id]
    predicted = CLASSES[row[list(CLASSES)].to_numpy(dtype=float).argmax()]
    assert case["predicted"].endswith(f"other {predicted}")
    assert len(case["pictures"]) == 2, "the image, and its attention"
    (part,) = differing_section(ReportSource("both", (evaluated, other)), None, 0)
    assert (part["cases"], part["missing"]) == ([], "no images were requested.")


def test_the_setup_counts_images_by_split_and_class(evaluated: EvaluatedRun) -> None:
    section = setup_section(evaluated)
    assert [row[0] for row in section["split"].rows] == ["train", "val", "test"]
    assert sum(int(row[-1]) for row in section["split"].rows) == 280
    assert "backbone: ham10000:tiny" in section["recipe"]
    assert dict(section["environment"])["processes"] == "1"
