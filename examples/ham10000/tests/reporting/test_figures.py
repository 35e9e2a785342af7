from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ham10000.data import CLASSES
from ham10000.errors import ArgumentError
from ham10000.evaluation import evaluate, make_predictions
from ham10000.reporting.figures import (
    confusion_figure,
    curves_figure,
    faithfulness_figure,
    recall_figure,
    reliability_figure,
    roc_figure,
    study_figure,
    write_figures,
)
from ham10000.reporting.style import DARK, LIGHT, Theme, save_figure

RNG = np.random.default_rng(0)
TARGETS = RNG.integers(0, 7, 200)
PROBABILITIES = RNG.dirichlet(np.ones(7), 200)
ROWS = [(f"I{n}", f"L{n}", CLASSES[target], "test") for n, target in enumerate(TARGETS)]
CURVES = {
    method: {"deletion": np.linspace(0.9, 0.1, 21).tolist(), "insertion": [0.2] * 20 + [0.9]}
    for method in ("attention", "grad_cam", "gaussian", "random")
}


def texts(figure: Figure) -> str:
    figure.canvas.draw()
    found = [text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text"))]
    return "\n".join(found)


def test_a_confusion_matrix_shows_counts_and_leaves_zeros_out() -> None:
    counts = np.diag(np.arange(1, 8)) * 1000
    shown = texts(confusion_figure(counts))
    assert "7,000" in shown
    assert "vasc (7,000)" in shown
    assert "0" not in shown.split("\n")


def test_an_empty_row_of_a_confusion_matrix_is_no_division_by_zero() -> None:
    assert "nv (0)" in texts(confusion_figure([[3, 1], [0, 0]], ["mel", "nv"]))


def test_roc_gives_the_areas_and_says_what_is_undefined() -> None:
    perfect = np.eye(7)[TARGETS]
    shown = texts(roc_figure(TARGETS, perfect))
    assert all(f"{name} 1.000" in shown for name in CLASSES)
    without = TARGETS != 3
    assert "df: undefined" in texts(roc_figure(TARGETS[without], perfect[without]))


def test_reliability_gives_the_expected_calibration_error() -> None:
    # Always 0.8 sure and right in half of the cases: the error is 0.3.
    scores = np.tile([0.8, 0.2, 0, 0, 0, 0, 0], (100, 1))
    figure = reliability_figure(np.arange(100) % 2, scores, bins=10)
    assert "error 0.300" in texts(figure)
    line = figure.axes[0].lines[1].get_xydata()
    np.testing.assert_allclose(line, [[0.8, 0.5]])
    heights = [bar.get_height() for bar in figure.axes[1].patches]
    assert heights == [0] * 7 + [100] + [0] * 2


def test_recall_says_which_class_has_no_image() -> None:
    figure = recall_figure({"mel": 0.5, "df": float("nan")}, {"mel": (0.4, 0.6), "df": (0, 1)})
    assert "0.50 (0.40 to 0.60)" in texts(figure)
    assert "no image" in texts(figure)


def test_curves_leave_out_what_no_row_has_and_gaps() -> None:
    rows = [
        {"epoch": 0, "split": "train", "loss": 2.0},
        {"epoch": 0, "split": "val", "loss": float("nan")},
        {"epoch": 1, "split": "train", "loss": 1.0},
        {"epoch": 1, "split": "val", "loss": 1.5},
    ]
    figure = curves_figure(rows)
    assert len(figure.axes) == 1
    train, val = (line.get_xydata().tolist() for line in figure.axes[0].lines)
    assert train == [[0, 2], [1, 1]]
    assert val == [[1, 1.5]]
    with pytest.raises(ArgumentError, match="no row has any of accuracy"):
        curves_figure(rows, ["accuracy"])


def test_each_method_has_a_line_of_its_own_look_and_its_area() -> None:
    figure = faithfulness_figure(CURVES)
    deletion, insertion = figure.axes
    assert [text.get_text() for text in deletion.get_legend().get_texts()] == [
        "attention 0.500",
        "Grad-CAM 0.500",
        "centred Gaussian 0.500",
        "random map 0.500",
    ]
    looks = {(line.get_color(), line.get_linestyle()) for line in deletion.lines}
    assert len(looks) == 4
    x, y = insertion.lines[0].get_xydata().T
    assert x[[0, -1]].tolist() == [0, 1]
    assert y.tolist() == CURVES["attention"]["insertion"]


def test_a_model_without_attention_has_the_other_lines() -> None:
    del (others := dict(CURVES))["attention"]
    assert len(faithfulness_figure(others).axes[0].lines) == 3


def contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_can_be_read(theme: Theme) -> None:
    for colour in (theme.ink, theme.quiet, theme.first, theme.second):
        assert contrast(colour, theme.surface) >= 4.5, colour
    for colour in theme.classes:
        assert contrast(colour, theme.surface) >= 3, colour
    assert len(set(theme.classes)) == len(CLASSES)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_figures_are_in_the_colours_of_their_theme(theme: Theme) -> None:
    for figure in (
        confusion_figure(np.eye(7), theme=theme),
        roc_figure(TARGETS, PROBABILITIES, theme=theme),
        reliability_figure(TARGETS, PROBABILITIES, theme=theme),
        recall_figure({"mel": 0.5}, {"mel": (0.4, 0.6)}, theme=theme),
        curves_figure([{"epoch": 0, "split": "val", "loss": 1.0}], theme=theme),
        faithfulness_figure(CURVES, theme=theme),
    ):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        edge = np.asarray(canvas.buffer_rgba())[0, 0, :3]
        assert "#" + bytes(edge).hex() == theme.surface


def test_equal_figures_are_equal_files_of_vectors(tmp_path: Path) -> None:
    for kind in ("svg", "pdf"):
        for name in ("a", "b"):
            save_figure(recall_figure({"df": 0.5}, {"df": (0.2, 0.8)}), tmp_path / f"{name}.{kind}")
        assert (tmp_path / f"a.{kind}").read_bytes() == (tmp_path / f"b.{kind}").read_bytes()
    root = ElementTree.parse(tmp_path / "a.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert not list(root.iter("{http://www.w3.org/2000/svg}image"))
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/Type3" not in pdf
    assert b"/Subtype /Image" not in pdf


def test_figures_are_files_that_open(tmp_path: Path) -> None:
    predictions = make_predictions(ROWS, PROBABILITIES)
    paths = write_figures(evaluate(predictions, resamples=5), predictions, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in paths)
    assert {path.stem for path in paths} == {"confusion", "roc", "reliability", "recall"}
    for path in paths:
        with Image.open(path) as picture:
            assert min(picture.size) > 300
            assert np.asarray(picture.convert("L")).std() > 1, "something is drawn"


def study(low: float | None, high: float | None) -> dict[str, Any]:
    """What the figure of a study reads of study.json: two arms, three folds, two seeds."""
    control = np.full((3, 2), 0.8)
    arms = {"se": control + 0.01, "sa": control - np.arange(6).reshape(3, 2) / 100}
    changes = {
        arm: {"auc_macro": {"mean": float((values - control).mean()), "low": low, "high": high}}
        for arm, values in arms.items()
    }
    values = {"bare": control, **arms}
    return {
        "primary": "auc_macro",
        "control": "bare",
        "arms": list(arms),
        "margins": {"auc_macro": 0.005},
        "metrics": {
            "auc_macro": {name: {"values": each.tolist()} for name, each in values.items()}
        },
        "comparisons": changes,
    }


def test_a_study_shows_each_fold_and_seed_and_the_interval() -> None:
    figure = study_figure(study(-0.03, 0.02))
    dots = [line for line in figure.axes[0].lines if line.get_marker() == "o"]
    drawn = sorted(round(float(x), 6) for line in dots for x in line.get_xdata())
    assert drawn == [-5, -4, -3, -2, -1, 0, *[1] * 6]
    assert "-2.50 (-3.00 to 2.00)" in texts(figure)
    assert "macro AUC, difference to bare in points" in texts(figure)


def test_a_study_of_too_few_runs_shows_no_interval() -> None:
    shown = texts(study_figure(study(None, None)))
    assert "-2.50" in shown
    assert " to " not in shown.replace("difference to", "")
