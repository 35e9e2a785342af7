import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import ranks
import torch
import yaml
from making import make
from PIL import Image

from ham10000.data import (
    CLASSES,
    HAM10000_INFO,
    PUBLISHED_SPLIT,
    SYNTHETIC,
    Augment,
    find_dataset,
    open_folder,
    prepare,
    read_table,
)
from ham10000.errors import (
    ArgumentError,
    CacheError,
    CheckpointError,
    DataError,
    MissingDataError,
    PredictionError,
    RecipeError,
)
from ham10000.evaluation import OfficialTest, read_predictions, write_predictions
from ham10000.recipe import Recipe, dump_recipe, load_recipe, make_recipe
from ham10000.training import RunDir, claim_run, find_predictions, open_run, train
from ham10000.training.checkpoint_file import read_checkpoint, write_checkpoint
from ham10000.training.data import prepare_data


@pytest.fixture(scope="module")
def metadata_run(recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    training = {"epochs": 2, "tta": 2, "monitor": "epoch", "mode": "max"}
    mine = recipe(data={"protocol": "lesion", "metadata": True}, training=training)
    assert ranks.run(train, mine, out) == [0]
    return out


def test_predictions_are_made_again_if_their_number_of_views_changes(
    recipe: Callable[..., Recipe], metadata_run: Path, tmp_path: Path
) -> None:
    run = RunDir(Path(shutil.copytree(metadata_run, tmp_path / "run")))
    mine = load_recipe(run.recipe)
    weights, before = run.best.read_bytes(), run.predictions().read_bytes()
    assert ranks.run(train, mine, run.path) == [0]
    assert run.predictions().read_bytes() == before
    mine = replace(mine, training=replace(mine.training, tta=1))
    assert ranks.run(train, mine, run.path) == [0]
    assert run.best.read_bytes() == weights
    predicted = open_run(metadata_run).predict("test", tta=1)
    assert read_predictions(run.predictions()).table.equals(predicted.table)
    mine = replace(mine, training=replace(mine.training, crops=4))
    assert ranks.run(train, mine, run.path) == [0]
    in_crops = read_predictions(run.predictions())
    assert not in_crops.table.equals(predicted.table)
    mine = replace(mine, training=replace(mine.training, crop_scale=0.5))
    assert ranks.run(train, mine, run.path) == [0]
    assert not read_predictions(run.predictions()).table.equals(in_crops.table)


def test_a_run_predicts_again_what_it_predicted(metadata_run: Path) -> None:
    opened = open_run(metadata_run)
    assert opened.splits == ["train", "val", "test"]
    again = opened.predict("test")
    written = read_predictions(metadata_run / "predictions.csv")
    assert again.table.equals(written.table)
    assert again.table.equals(opened.predict("test", tta=2).table)
    assert not again.table.equals(opened.predict("test", tta=1).table)
    assert set(opened.split_table["split"]) == {"train", "val", "test"}
    assert len(opened.dataset("val")) == len(read_predictions(metadata_run / "predictions-val.csv"))


def test_eight_views_are_averaged(metadata_run: Path) -> None:
    opened = open_run(metadata_run)
    plain = opened.predict("test", tta=1).probabilities
    all_views = opened.predict("test", tta=8)
    assert all_views.probabilities.sum(1) == pytest.approx(1, abs=1e-4)
    assert abs(all_views.probabilities - plain).max() > 1e-4


def test_masks_come_from_the_files_where_the_cache_has_none(metadata_run: Path) -> None:
    data = open_run(metadata_run).dataset("test", masks=True)
    image, _, extras = data[0]
    assert extras["mask"].shape == (1, *image.shape[1:])


def test_the_data_may_have_moved(metadata_run: Path, tmp_path: Path) -> None:
    before = open_run(metadata_run).recipe
    moved = Path(shutil.copytree(before.data.root, tmp_path / "moved"))
    opened = open_run(metadata_run, data=moved)
    assert opened.recipe.data.root == moved
    assert replace(opened.recipe, data=before.data) == before
    assert len(opened.dataset("test", masks=True)) == len(open_run(metadata_run).dataset("test"))
    assert open_run(metadata_run).recipe == before, "the run's own recipe stays"


def test_weights_are_identified_by_their_hash(metadata_run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(metadata_run, tmp_path / "copy"))
    best = copy / "checkpoints" / "best.pt"
    assert open_run(copy).weights_hash == open_run(metadata_run).weights_hash
    assert open_run(metadata_run).weights_hash == hashlib.sha256(best.read_bytes()).hexdigest()
    best.unlink()
    last = RunDir(copy).step_checkpoints()[0]
    assert open_run(copy).weights_hash == hashlib.sha256(last.read_bytes()).hexdigest()
    shutil.rmtree(copy / "checkpoints")
    assert open_run(copy).weights_hash is None


def test_best_weights_that_are_damaged_are_said(
    metadata_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(metadata_run, tmp_path / "copy"))
    last = open_run(copy).load_model().state_dict()
    best = copy / "checkpoints" / "best.pt"
    best.write_bytes(best.read_bytes()[:-9])
    model = open_run(copy).load_model()
    assert "Using the best weights, of epoch 2, from" in caplog.text
    assert not model.training
    assert model.state_dict().keys() == last.keys()
    for path in (copy / "checkpoints").glob("step-*"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="all 2 checkpoints are damaged"):
        open_run(copy).load_model()


def test_what_is_not_there_is_said(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="ham10000 train RECIPE"):
        open_run(tmp_path)
    claim_run(tmp_path / "new", recipe())
    with pytest.raises(MissingDataError, match="it has no weights yet"):
        open_run(tmp_path / "new").load_model()


def test_the_weights_are_the_average(metadata_run: Path) -> None:
    content = torch.load(metadata_run / "checkpoints" / "best.pt", weights_only=True)
    last = torch.load(RunDir(metadata_run).step_checkpoints()[0], weights_only=True)
    if content["epoch"] == last["state"]["epoch"]:
        for name, value in content["model"].items():
            assert torch.equal(value, last["ema"][f"module.{name}"])


@pytest.fixture
def copy(run: Path, tmp_path: Path) -> Path:
    """A run that a test may break."""
    return Path(shutil.copytree(run, tmp_path / "run"))


def test_what_a_run_has_written_is_read(run: Path) -> None:
    written = read_predictions(run / "predictions.csv")
    assert find_predictions(run).table.equals(written.table)


def test_what_a_run_has_not_written_is_predicted(copy: Path, synthetic: Path) -> None:
    written = find_predictions(copy)
    (copy / "predictions.csv").unlink()
    again = find_predictions(copy, data=synthetic)
    assert again.table["image_id"].tolist() == written.table["image_id"].tolist()
    assert again.probabilities == pytest.approx(written.probabilities, abs=2e-5)
    validated = find_predictions(copy, "val")
    assert set(validated.table["split"]) == {"val"}
    assert not set(validated.table["image_id"]) & set(written.table["image_id"])


def test_views_are_averaged_by_the_model(run: Path) -> None:
    one, four = find_predictions(run), find_predictions(run, tta=4)
    assert one.table["image_id"].tolist() == four.table["image_id"].tolist()
    assert np.abs(one.probabilities - four.probabilities).max() > 1e-4


def test_predictions_of_a_run_must_be_of_its_split(copy: Path) -> None:
    path = copy / "predictions.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-2]) + "\n")
    with pytest.raises(PredictionError, match=r"predictions\.csv: no row .*\(2 such.*split test"):
        find_predictions(copy)


def test_predictions_of_a_file_must_be_of_the_data_set(run: Path, synthetic: Path) -> None:
    assert len(find_predictions(run / "predictions.csv", data=synthetic)) > 10


def test_a_file_of_other_images_is_refused(tmp_path: Path, synthetic: Path) -> None:
    write_predictions(make({"mel": 3, "nv": 4}), tmp_path / "p.csv")
    with pytest.raises(PredictionError, match=r"p\.csv: a row for the image .* doesn't have"):
        find_predictions(tmp_path / "p.csv", data=synthetic)


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    write_predictions(make({"mel": 3, "nv": 4}), tmp_path / "p.csv")
    with pytest.raises(PredictionError, match=r"no row has split 'val', only test\. Choose"):
        find_predictions(tmp_path / "p.csv", "val")
    with pytest.raises(ArgumentError, match="no split 'tset'"):
        find_predictions(tmp_path / "p.csv", "tset")


def test_a_file_cannot_be_averaged_over_views(tmp_path: Path) -> None:
    write_predictions(make({"mel": 3, "nv": 4}), tmp_path / "p.csv")
    with pytest.raises(ArgumentError, match="averaged over 4 views"):
        find_predictions(tmp_path / "p.csv", tta=4)


def test_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="neither a folder of a run nor a file"):
        find_predictions(tmp_path / "nowhere")
    with pytest.raises(MissingDataError, match=r"no recipe\.yaml"):
        find_predictions(tmp_path)


def test_a_run_predicts_the_official_test_set_as_it_does_its_own(
    run: Path, tmp_path: Path, synthetic: Path
) -> None:
    folder = tmp_path / "ISIC2018_Task3_Test_Images"
    folder.mkdir()
    for path in open_folder(synthetic).paths()[::28]:
        shutil.copy(path, folder)
    truth = read_table(synthetic / "HAM10000_metadata.csv").iloc[::28].reset_index(drop=True)
    found = open_run(run).predict_official(tmp_path, truth)
    assert found.table["image_id"].tolist() == truth["image_id"].tolist()
    assert found.table["dx"].tolist() == truth["dx"].tolist()
    assert set(found.table["split"]) == {"test"}
    splits = [
        find_predictions(run, name, data=synthetic).table for name in ("train", "val", "test")
    ]
    own = pd.concat(splits).set_index("image_id").loc[truth["image_id"]]
    expected = own[list(OfficialTest.classes)].to_numpy()
    assert found.probabilities == pytest.approx(expected, abs=1e-5)


def test_the_official_test_set_needs_a_run_of_its_classes(binary_run: Path) -> None:
    with pytest.raises(ArgumentError, match=r"has other, mel\. Use a run"):
        open_run(binary_run).predict_official(binary_run, pd.DataFrame())


def test_classes_in_another_order_are_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "clinic.yaml"
    names = dict(reversed(HAM10000_INFO.class_names.items()))
    path.write_text(
        yaml.safe_dump({"name": "clinic", "table": "a.csv", "classes": names}, sort_keys=False)
    )
    copy = RunDir(Path(shutil.copytree(run, tmp_path / "run")))
    content = read_checkpoint(copy.best)
    recipe = content["recipe"].replace("set: ham10000", f"set: {path}")
    write_checkpoint(copy.best, {**content, "recipe": recipe})
    copy.recipe.write_text(recipe)
    with pytest.raises(RecipeError, match=r"on the classes akiec, .*, vasc, and data\.set"):
        open_run(copy.path).load_model()


def test_image_files_are_predicted_as_the_images_of_a_split(run: Path, synthetic: Path) -> None:
    opened, files = open_run(run), open_folder(synthetic).images
    written = read_predictions(run / "predictions.csv").table.head(70)  # more than one batch
    found = opened.predict_images([files[name] for name in written["image_id"]])
    assert list(found.columns) == list(CLASSES)
    assert found.index.tolist() == [str(files[name]) for name in written["image_id"]]
    assert found.to_numpy() == pytest.approx(written[list(CLASSES)].to_numpy(), abs=2e-5)
    one = opened.predict_images(str(files[written["image_id"][3]]))
    assert one.to_numpy()[0] == pytest.approx(found.to_numpy()[3], abs=2e-5)
    eight = opened.predict_images(files[written["image_id"][3]], tta=8)
    assert abs(eight.to_numpy() - one.to_numpy()).max() > 1e-4


def test_metadata_of_image_files_can_be_passed(metadata_run: Path, synthetic: Path) -> None:
    written = read_predictions(metadata_run / "predictions.csv").table.iloc[:3]
    folder = open_folder(synthetic)
    paths = [folder.images[name] for name in written["image_id"]]
    rows = folder.table.set_index("image_id").loc[written["image_id"]]
    found = open_run(metadata_run).predict_images(paths, rows)
    assert found.to_numpy() == pytest.approx(written[list(CLASSES)].to_numpy(), abs=2e-5)
    with pytest.raises(ArgumentError, match="found them for 2"):
        open_run(metadata_run).predict_images(paths, rows.head(2))


def test_image_files_are_preprocessed_as_in_training(run: Path, synthetic: Path) -> None:
    opened = open_run(run)
    data = opened.dataset("test")
    names = data.table["image_id"].tolist()[:3]
    inputs = opened.preprocess([open_folder(synthetic).images[name] for name in names])
    expected = Augment("none")(data.read([0, 1, 2])[0], torch.arange(3), epoch=0)
    assert torch.equal(inputs, expected)


@pytest.mark.parametrize(
    ("mode", "kind"),
    [("L", "JPEG"), ("CMYK", "JPEG"), ("L", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("LA", "PNG")],
)
def test_images_of_other_modes_are_converted(
    run: Path, tmp_path: Path, mode: str, kind: str
) -> None:
    grey = Image.linear_gradient("L").convert("RGB")
    grey.convert(mode).save(tmp_path / "other", kind)
    grey.save(tmp_path / "plain", "PNG")
    other, plain = open_run(run).preprocess([tmp_path / "other", tmp_path / "plain"])
    # CMYK and JPEG are lossy. The input is from -1 to 1.
    assert other.numpy() == pytest.approx(plain.numpy(), abs=0.03)


def test_photos_are_turned_upright(run: Path, tmp_path: Path) -> None:
    image = Image.linear_gradient("L").convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.png", exif=exif)
    image.transpose(Image.Transpose.ROTATE_270).save(tmp_path / "upright.png")
    turned, upright = open_run(run).preprocess([tmp_path / "turned.png", tmp_path / "upright.png"])
    assert torch.equal(turned, upright)
    assert not torch.equal(turned, turned.mT)


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("nowhere.jpg", MissingDataError, r"predicting .*nowhere\.jpg: there is no such file"),
        ("phto.jpg", MissingDataError, r"Closest: photo\.jpg"),
        ("folder", ArgumentError, r"predicting .*folder: it is a folder\. Pass the image files"),
        ("photo.jpg", DataError, r"decoding .*photo\.jpg: it is not a JPEG or PNG.* or convert it"),
    ],
)
def test_what_is_no_image_is_refused(
    run: Path, tmp_path: Path, name: str, error: type[Exception], message: str
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "photo.jpg").write_bytes(b"\0\0\0\x18ftypheic")
    with pytest.raises(error, match=message):
        open_run(run).predict_images([tmp_path / name])


def test_no_files_and_missing_metadata_are_refused(
    run: Path, metadata_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(ArgumentError, match="there are no files"):
        open_run(run).predict_images([])
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    with pytest.raises(ArgumentError, match="also needs age, sex, localization of each image, fou"):
        open_run(metadata_run).predict_images([tmp_path / "a.png"])
    assert open_run(metadata_run).preprocess(tmp_path / "a.png").shape == (1, 3, 24, 24)


@pytest.mark.parametrize("layer", ["placebo", "keras", "se", "eca", "cbam"])
def test_a_run_with_any_attention_can_be_opened(
    layer: str, recipe: Callable[..., Recipe], tmp_path: Path
) -> None:
    mine = recipe(
        data={"epoch_samples": 16},
        attention={"layer": layer, "block": "plain"},
        training={"epochs": 1, "checkpoint_steps": None},
    )
    assert ranks.run(train, mine, tmp_path / "run") == [0]
    opened = open_run(tmp_path / "run")
    assert opened.recipe.attention.layer == layer
    written = read_predictions(tmp_path / "run" / "predictions.csv")
    assert opened.predict("test").table.equals(written.table)
    frozen = [name for name, p in opened.load_model().named_parameters() if not p.requires_grad]
    assert len(frozen) == 2 * (layer == "placebo")


def test_a_run_on_another_data_set_has_its_classes_and_split(
    binary_run: Path, isic2017: Path
) -> None:
    opened = open_run(binary_run)
    assert opened.info is find_dataset("isic2017-melanoma")
    assert opened.data_name == SYNTHETIC
    table = open_folder(isic2017, opened.info).table
    expected = dict(zip(table["image_id"], table[PUBLISHED_SPLIT], strict=True))
    assert dict(opened.split_table[["image_id", "split"]].to_numpy()) == expected
    assert opened.load_model()(torch.zeros(1, 3, 24, 24)).shape == (1, 2)
    written = read_predictions(binary_run / "predictions.csv")
    assert written.classes == ("other", "mel")
    assert written.table.equals(opened.predict("test").table)
    assert find_predictions(binary_run, data=isic2017).classes == ("other", "mel")
    image = next(isic2017.glob("ISIC-2017_Test_v2_Data/*.jpg"))
    assert list(opened.predict_images(image).columns) == ["other", "mel"]
    assert (binary_run.parent / "set-isic2017-melanoma-cache-24").is_dir()


def test_masks_of_another_data_set_are_those_of_its_images(binary_run: Path) -> None:
    images = open_run(binary_run).dataset("test", masks=True)
    assert 0 < images[0][2]["mask"].float().mean() < 1


def test_a_cache_of_another_data_set_is_refused(
    binary_run: Path, tmp_path: Path, isic2017: Path
) -> None:
    keratosis = prepare(isic2017, tmp_path / "cache", 24, info=find_dataset("isic2017-keratosis"))
    mine = load_recipe(RunDir(binary_run).recipe)
    data = replace(mine.data, root=tmp_path / "gone", cache=keratosis.cache.path)
    with pytest.raises(CacheError, match=r"of ISIC 2017 \(keratosis\), and data\.set is isic2017"):
        prepare_data(RunDir(tmp_path / "run"), replace(mine, data=data))


def test_a_recipe_from_before_there_were_other_data_sets_is_of_ham10000(tmp_path: Path) -> None:
    text = dump_recipe(make_recipe({"name": "old"}))
    assert "  set: ham10000\n" in text
    (tmp_path / "recipe.yaml").write_text(text.replace("  set: ham10000\n", ""))
    assert open_run(tmp_path).info is HAM10000_INFO
