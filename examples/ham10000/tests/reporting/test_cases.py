import json
import re
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from PIL import Image

from ham10000.cli import main
from ham10000.data import CLASSES, open_folder
from ham10000.errors import ArgumentError
from ham10000.evaluation import Predictions, make_predictions, read_predictions
from ham10000.reporting.cases import (
    Case,
    case_figure,
    choose,
    file_cases,
    gallery,
    make_cases,
)
from ham10000.training import find_images, open_run


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
        assert len(case_figure(case).axes) == 4, "with the colour bar"


def test_cases_of_files_are_those_of_the_data_set(run: Path) -> None:
    opened, said = open_run(run), read_predictions(run / "predictions.csv")
    names = said.table["image_id"].tolist()[:3]
    found = find_images(opened, names)
    cases = list(file_cases(opened, opened.predict_images(found.paths), masks=found.masks))
    for case, other in zip(cases, make_cases(opened, said, names), strict=True):
        assert (case.image_id, case.truth, case.split) == (other.image_id, other.truth, "test")
        assert torch.equal(case.image, other.image)
        assert case.mask is not None
        assert other.mask is not None
        assert torch.equal(case.mask, other.mask)
        assert case.attention is not None
        assert other.attention is not None
        assert case.attention.numpy() == pytest.approx(other.attention.numpy(), abs=1e-6)
        assert case.probabilities == pytest.approx(other.probabilities, abs=2e-5)
        assert f"{case.image_id} (test image): " in case_figure(case).get_suptitle()


def test_a_photo_has_neither_diagnosis_nor_outline(run: Path, tmp_path: Path) -> None:
    name = open_run(run).split_table["image_id"].iloc[0]
    Image.new("RGB", (40, 30), "pink").save(tmp_path / "photo.jpg")
    Image.new("RGB", (40, 30), "pink").save(tmp_path / f"{name}.jpg")
    opened = open_run(run)
    found = find_images(opened, [str(tmp_path)])
    assert found.masks == {}, "another file of the name of an image has no mask"
    cases = list(file_cases(opened, opened.predict_images(found.paths), masks=found.masks))
    named, photo = sorted(cases, key=lambda case: case.image_id)
    assert (photo.truth, photo.split, photo.mask) == (None, None, None)
    assert named.split in ("train", "val", "test")
    figure = case_figure(photo)
    assert figure.get_suptitle().startswith(f"photo: predicted {photo.prediction}, ")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["image", "attention", "probability", "1 = uniform"]


def test_files_of_one_name_are_told_apart(run: Path, tmp_path: Path) -> None:
    paths = [tmp_path / "left" / "1.jpg", tmp_path / "right" / "1.jpg"]
    for path in paths:
        path.parent.mkdir()
        Image.new("RGB", (40, 30), "pink").save(path)
    opened = open_run(run)
    cases = list(file_cases(opened, opened.predict_images(paths)))
    assert [case.image_id for case in cases] == ["left_1.jpg", "right_1.jpg"]


def test_uniform_attention_is_called_uniform() -> None:
    shares = dict.fromkeys(CLASSES, 1 / 7)
    case = Case("x" * 60, None, shares, torch.zeros(3, 8, 8, dtype=torch.uint8), torch.ones(2, 2))
    figure = case_figure(case)
    bar = figure.axes[3]
    assert (bar.get_title(), bar.get_ylim()) == ("1 = uniform", (0, 2))
    assert figure.axes[1].get_title() == "attention: uniform"
    assert figure.get_suptitle().startswith(f"{'x' * 16}...{'x' * 13}: predicted akiec")
    one_sided = torch.tensor([[1.0, 0.5], [1.0, 1.0]])
    assert case_figure(replace(case, attention=one_sided)).axes[1].get_title() == "attention"
    peaked = torch.tensor([[12.0, 0.0], [0.0, 0.0]])
    figure = case_figure(replace(case, attention=peaked))
    assert figure.axes[3].get_ylim() == (0, 4), "up to the largest attention"
    # The colour of the overlay is that of the bar, and its opacity there 0.7 * (1 - 1 / 4).
    colour = matplotlib.colormaps["magma"](1.0)[:3]
    shown = np.asarray(figure.axes[1].images[0].get_array())[0, 0]
    assert shown == pytest.approx(0.7 * 0.75 * np.array(colour), abs=1e-5)


def test_explain_tells_where_an_image_is(
    run: Path, synthetic: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    split = open_run(run).split_table.groupby("split")["image_id"].first()
    Image.new("RGB", (40, 30), "pink").save(tmp_path / "photo.png")
    given = [split["train"], str(open_folder(synthetic).images[split["test"]])]
    out = ["--out", str(tmp_path / "out")]
    assert main(["explain", str(run), "--image", *given, str(tmp_path), *out]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Training image of the run: {split['train']}. Predictions of training" in printed
    assert f"Test image of the run: {split['test']}." in printed
    names = {f"{split['train']}.png", f"{split['test']}.png", "photo.png"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--image", "ISIC_900000"], "no such file, and no such image in the data set.*Closest: I"),
        (["--image", "a.jpg", "--worst", "3"], "--worst and --class select images of a split"),
        (["--image", "a.jpg", "--class", "mel"], "--worst and --class select images of a split"),
        (["--image", "."], "the images are there too, and a figure could replace one"),
    ],
)
def test_explain_refuses(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (40, 30), "pink").save(tmp_path / "a.jpg")
    assert main(["explain", str(run), *options, "--out", "."]) == 1
    assert re.search(message, capsys.readouterr().err)
    assert [path.name for path in tmp_path.iterdir()] == ["a.jpg"]


def test_images_of_the_data_set_have_their_metadata(run: Path, synthetic: Path) -> None:
    opened = open_run(run)
    metadata = replace(opened.recipe.data, metadata=True)
    opened.recipe = replace(opened.recipe, data=metadata)
    names = opened.split_table["image_id"].tolist()[:2]
    found = find_images(opened, names, synthetic)
    assert found.metadata is not None
    table = open_folder(synthetic).table.set_index("image_id")
    assert found.metadata["age"].tolist() == table["age"].loc[names].tolist()
    gone = find_images(opened, [str(found.paths[0])], data=run)  # not a data set
    assert (gone.paths, gone.masks, gone.metadata) == (found.paths[:1], {}, None)


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


def test_localise_describes_the_maps(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["localise", str(run), "--faithful", "0", "--out", str(out)]) == 0
    maps = json.loads((out / "localisation.json").read_text())["maps"]
    statistics, gamma = maps["statistics"], maps["gamma"]
    assert 0 < statistics["entropy"]["value"] < 1 <= statistics["effective_maps"]["value"]
    assert gamma["trained"] != gamma["initial"]
    printed = capsys.readouterr().out
    assert f"entropy        {statistics['entropy']['value']:.3f} [" in printed
    assert f"Gamma: {gamma['initial']:.4g} at first, {gamma['trained']:.4g} trained." in printed
