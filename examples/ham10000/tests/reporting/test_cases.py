from pathlib import Path

import numpy as np
import pytest

from ham10000.cli import main
from ham10000.data import CLASSES
from ham10000.errors import ArgumentError
from ham10000.evaluation import Predictions, make_predictions, read_predictions
from ham10000.reporting.cases import case_figure, choose, gallery, make_cases
from ham10000.training import open_run


def predictions() -> Predictions:
    """Two images a class; the second is taken for the next class, the surer the later it is."""
    rows = [(f"I{n}", f"L{n}", CLASSES[n // 2], "test") for n in range(14)]
    scores = np.eye(7)[[n // 2 for n in range(14)]]
    for place in range(7):
        wrong = 0.6 + 0.05 * place
        scores[2 * place + 1] = 0
        scores[2 * place + 1, [place, (place + 1) % 7]] = [1 - wrong, wrong]
    return make_predictions(rows, scores)


def test_the_worst_have_the_least_probability_of_their_class() -> None:
    assert choose(predictions(), worst=3) == ["I13", "I11", "I9"]
    assert choose(predictions(), worst=1, dx="mel") == ["I9"]
    assert choose(predictions(), dx="mel") == ["I8", "I9"]
    assert choose(predictions(), ["I3", "I0"]) == ["I3", "I0"]


def test_a_gallery_has_right_and_wrong_of_each_class() -> None:
    assert sorted(gallery(predictions())) == sorted(f"I{n}" for n in range(14))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": ["I99"]}, "no image 'I99'. Closest: I9"),
        ({"worst": 0}, "worst must be at least 1, found 0"),
        ({"dx": "nvs"}, "unknown class 'nvs'. Closest: nv"),
        ({"images": ["I0"], "dx": "mel"}, "none of these images has the class mel"),
    ],
)
def test_what_cant_be_chosen_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        choose(predictions(), **options)  # type: ignore[arg-type]


def test_cases_hold_what_the_run_said(run: Path) -> None:
    said = read_predictions(run / "predictions.csv")
    names = said.table["image_id"].tolist()[:3]
    cases = list(make_cases(open_run(run), said, names, batch_size=2))
    for row, case in enumerate(cases):
        assert case.image_id == names[row]
        assert case.truth == said.table["dx"].iloc[row]
        assert list(case.probabilities.values()) == said.probabilities[row].tolist()
        assert case.attention is not None
        assert case.mask is not None
        assert case.mask.shape == case.image.shape[1:]
        assert case.attention.sum().item() == pytest.approx(2, abs=1e-4)
        assert len(case_figure(case).axes) == 3


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_explain_writes_a_figure_for_each(run: Path, tmp_path: Path, kind: str) -> None:
    out = tmp_path / "out"
    assert main(["explain", str(run), "--worst", "2", "--out", str(out), "--figures", kind]) == 0
    assert len(list(out.iterdir())) == len(list(out.glob(f"ISIC_*.{kind}"))) == 2


def test_explain_says_what_it_needs(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(run), "--out", str(tmp_path / "out")]) == 1
    assert "Pass --image NAME, --worst 20 or --class mel." in capsys.readouterr().err


def test_localise_prints_within_80_columns(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["localise", str(run), "--faithful", "3", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "centred Gaussian" in printed
    assert max(len(line) for line in printed.splitlines() if "Written" not in line) <= 80
    assert sorted(path.name for path in out.iterdir()) == [
        "localisation.csv",
        "localisation.json",
    ]
