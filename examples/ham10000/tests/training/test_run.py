import hashlib
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import ranks
import torch

from ham10000.errors import ArgumentError, CheckpointError, MissingDataError
from ham10000.evaluation import read_predictions
from ham10000.recipe import Recipe
from ham10000.training.checkpoints import steps_in
from ham10000.training.folder import claim
from ham10000.training.run import open_run
from ham10000.training.train import train


@pytest.fixture(scope="module")
def run(recipe: Callable[..., Recipe], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "tiny"
    training = {"epochs": 2, "tta": 2, "monitor": "epoch", "mode": "max"}
    mine = recipe(data={"protocol": "honest", "metadata": True}, training=training)
    assert ranks.run(train, mine, out) == [0]
    return out


def test_a_run_predicts_again_what_it_predicted(run: Path) -> None:
    opened = open_run(run)
    assert opened.splits == ["train", "val", "test"]
    again = opened.predict("test")
    written = read_predictions(run / "predictions.csv")
    assert again.table.equals(written.table)
    assert again.table.equals(opened.predict("test", tta=2).table)
    assert not again.table.equals(opened.predict("test", tta=1).table)
    assert set(opened.split_table["split"]) == {"train", "val", "test"}
    assert len(opened.dataset("val")) == len(read_predictions(run / "predictions-val.csv"))


def test_eight_views_are_averaged(run: Path) -> None:
    opened = open_run(run)
    plain = opened.predict("test", tta=1).probabilities
    all_views = opened.predict("test", tta=8)
    assert all_views.probabilities.sum(1) == pytest.approx(1)
    assert abs(all_views.probabilities - plain).max() > 1e-4
    with pytest.raises(ArgumentError, match="tta must be 1, 2, 4 or 8, found 3"):
        opened.predict("test", tta=3)


def test_masks_come_from_the_files_where_the_cache_has_none(run: Path) -> None:
    data = open_run(run).dataset("test", masks=True)
    image, _, extras = data[0]
    assert extras["mask"].shape == (1, *image.shape[1:])


def test_the_data_may_have_moved(run: Path, tmp_path: Path) -> None:
    before = open_run(run).recipe
    moved = Path(shutil.copytree(before.data.root, tmp_path / "moved"))
    opened = open_run(run, data=moved)
    assert opened.recipe.data.root == moved
    assert replace(opened.recipe, data=before.data) == before
    assert len(opened.dataset("test", masks=True)) == len(open_run(run).dataset("test"))
    assert open_run(run).recipe == before, "the run's own recipe stays"


def test_weights_are_told_apart_by_their_hash(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    best = copy / "checkpoints" / "best.pt"
    assert open_run(copy).weights_hash == open_run(run).weights_hash
    assert open_run(run).weights_hash == hashlib.sha256(best.read_bytes()).hexdigest()
    best.unlink()
    last = steps_in(copy / "checkpoints")[0]
    assert open_run(copy).weights_hash == hashlib.sha256(last.read_bytes()).hexdigest()
    shutil.rmtree(copy / "checkpoints")
    assert open_run(copy).weights_hash is None


def test_best_weights_that_are_damaged_are_said(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    last = open_run(copy).load_model().state_dict()
    best = copy / "checkpoints" / "best.pt"
    best.write_bytes(best.read_bytes()[:-9])
    model = open_run(copy).load_model()
    assert "The best weights, of epoch 2, are taken from a checkpoint" in caplog.text
    assert not model.training
    assert model.state_dict().keys() == last.keys()
    for path in (copy / "checkpoints").glob("step-*"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="none of its"):
        open_run(copy).load_model()


def test_what_is_not_there_is_said(recipe: Callable[..., Recipe], tmp_path: Path) -> None:
    with pytest.raises(MissingDataError, match="ham10000 train RECIPE"):
        open_run(tmp_path)
    claim(tmp_path / "new", recipe())
    with pytest.raises(MissingDataError, match="it has no weights yet"):
        open_run(tmp_path / "new").load_model()


def test_the_weights_are_the_average(run: Path) -> None:
    content = torch.load(run / "checkpoints" / "best.pt", weights_only=True)
    last = torch.load(steps_in(run / "checkpoints")[0], weights_only=True)
    if content["epoch"] == last["state"]["epoch"]:
        for name, value in content["model"].items():
            assert torch.equal(value, last["ema"][f"module.{name}"])
