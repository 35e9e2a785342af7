import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ranks
import timm
import torch

from ham10000.data import CLASSES, open_folder
from ham10000.errors import CacheError, MissingDataError, RecipeError, SplitError, TrainingError
from ham10000.evaluation import read_predictions
from ham10000.models import FeatureMaps
from ham10000.recipe import Recipe, make_recipe
from ham10000.training import RunDir, check_frozen, find_predictions, frozen, open_run, train

LAYERS = ("none", "placebo", "soft", "se", "eca", "cbam")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs, which share cache and features, with the weights of a tiny model."""
    out = tmp_path_factory.mktemp("frozen")
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), out / "tiny.pth")
    return out


@pytest.fixture(scope="module")
def fields(folder: Path, synthetic: Path) -> dict[str, Any]:
    return {
        "name": "frozen",
        "data": {"root": str(synthetic), "size": 64, "augment": "none", "epoch_samples": 64},
        "model": {
            "backbone": "timm:test_resnet",
            "weights": str(folder / "tiny.pth"),
            "frozen": True,
        },
        "training": {"epochs": 2, "batch_size": 16},
    }


@pytest.fixture(scope="module")
def recipe(fields: dict[str, Any]) -> Recipe:
    return make_recipe(fields)


@pytest.fixture(scope="module")
def run(recipe: Recipe, folder: Path) -> RunDir:
    """A finished run. It is shared, so tests must not change it."""
    assert train(recipe, folder / "run") == 0
    return RunDir(folder / "run")


def with_fields(recipe: Recipe, section: str, **values: object) -> Recipe:
    return replace(recipe, **{section: replace(getattr(recipe, section), **values)})


def test_an_attentive_probe_on_a_vit_from_a_file(recipe: Recipe, folder: Path) -> None:
    torch.manual_seed(0)
    state = timm.create_model("test_vit").state_dict()
    without_head = {f"encoder.{k}": v for k, v in state.items() if not k.startswith("head.")}
    torch.save({"model": without_head}, folder / "vit.pth")
    vit = {"backbone": "timm:test_vit", "weights": str(folder / "vit.pth")}
    mine = with_fields(recipe, "model", **vit, head="probe", num_queries=8)
    mine = with_fields(mine, "data", size=160, epoch_samples=16)
    assert train(mine, folder / "vit") == 0
    opened = open_run(folder / "vit")
    model = opened.load_model()
    assert torch.equal(model.network.backbone.model.cls_token, state["cls_token"])
    stored = read_predictions(folder / "vit" / "predictions.csv").probabilities
    assert abs(opened.predict("test").probabilities - stored).max() < 2e-3  # features are float16


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (MissingDataError, "split.csv cannot be read any more .* --resume"),
        (SplitError, "split.csv was changed during training"),
    ],
)
def test_a_split_that_is_lost_or_changed_in_mid_run(
    recipe: Recipe,
    run: RunDir,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[Exception],
    message: str,
) -> None:
    end_epoch, own = frozen._end_epoch, RunDir(tmp_path / "run")

    def lose_split(*arguments: Any) -> bool:
        if error is SplitError:
            own.split.write_text(run.split.read_text().replace(",train", ",test"))
        else:
            own.split.unlink(missing_ok=True)
        return end_epoch(*arguments)

    features = run.path.parent / "features-timm-test_resnet-64"
    own_recipe = with_fields(recipe, "data", features=features)
    monkeypatch.setattr(frozen, "_end_epoch", lose_split)
    with pytest.raises(error, match=message):
        train(own_recipe, own.path)
    assert not own.done
    monkeypatch.undo()
    if error is MissingDataError:
        assert train(own_recipe, own.path) == 0, "as the message says"
        assert own.predictions().read_bytes() == run.predictions().read_bytes()


def test_the_folder_of_a_run(run: RunDir, folder: Path) -> None:
    names = {path.name for path in run.path.iterdir() if not path.name.endswith(".lock")}
    assert names == {
        "recipe.yaml",
        "images.sha256",
        "split.csv",
        "environment.json",
        "checkpoints",
        "metrics.jsonl",
        "log.txt",
        "predictions.csv",
        "predictions-val.csv",
    }
    assert run.best.stat().st_size < 20_000  # without the backbone
    environment = json.loads((run.path / "environment.json").read_text())
    assert (environment["device"], environment["processes"], environment["threads"]) == (
        "cpu",
        1,
        1,
    )
    assert (folder / "features-timm-test_resnet-64" / "features.json").exists()
    records = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert [(each["epoch"], each["split"]) for each in records] == [
        (1, "train"),
        (1, "val"),
        (2, "train"),
        (2, "val"),
    ]


def test_the_complete_model_gives_the_same_predictions(run: RunDir) -> None:
    opened = open_run(run.path)
    written = read_predictions(run.predictions())
    predicted = opened.predict("test")
    assert list(predicted.table["image_id"]) == list(written.table["image_id"])
    # The features were rounded to float16.
    assert abs(predicted.probabilities - written.probabilities).max() < 2e-3
    assert len(find_predictions(run.path)) == len(written)


@pytest.mark.parametrize("layer", LAYERS)
def test_every_attention_trains(layer: str, recipe: Recipe, run: RunDir, folder: Path) -> None:
    attended = with_fields(recipe, "attention", layer=layer)
    train(attended, folder / f"layer-{layer}")
    model = open_run(folder / f"layer-{layer}").load_model()
    assert model.has_attention == (layer in ("placebo", "soft"))
    again = open_run(folder / f"layer-{layer}").predict("test")
    written = read_predictions(RunDir(folder / f"layer-{layer}").predictions())
    assert abs(again.probabilities - written.probabilities).max() < 2e-3


@pytest.mark.parametrize("head", ["max", "probe", "flatten"])
def test_every_head_trains(head: str, recipe: Recipe, run: RunDir, folder: Path) -> None:
    train(with_fields(recipe, "model", head=head, num_queries=8), folder / f"head-{head}")
    assert RunDir(folder / f"head-{head}").done


def test_images_are_weighted_by_their_confirmation(
    recipe: Recipe, run: RunDir, folder: Path
) -> None:
    plain = run.predictions().read_bytes()
    for name, weight in (("ones", 1.0), ("uneven", 0.1)):
        weights = {"follow_up": weight}
        train(with_fields(recipe, "loss", dx_type_weights=weights), folder / f"weights-{name}")
    found = [RunDir(folder / f"weights-{name}").predictions() for name in ("ones", "uneven")]
    assert found[0].read_bytes() == plain
    assert found[1].read_bytes() != plain


def test_training_is_deterministic(recipe: Recipe, run: RunDir, folder: Path) -> None:
    dropout = with_fields(recipe, "model", drop_rate=0.5)
    for name in ("first", "second"):
        train(dropout, folder / name)

    def train_with_two_threads() -> bool:
        torch.set_num_threads(2)
        train(dropout, folder / "third")
        return torch.get_num_threads() != 2

    assert ranks.run(train_with_two_threads) == [0]
    texts = {
        (folder / name / "predictions.csv").read_bytes() for name in ("first", "second", "third")
    }
    assert len(texts) == 1
    train(replace(dropout, seed=1, data=replace(dropout.data, split_seed=0)), folder / "other")
    assert (folder / "other" / "predictions.csv").read_bytes() not in texts


def test_an_interrupted_run_is_trained_again(
    recipe: Recipe, run: RunDir, folder: Path, tmp_path: Path
) -> None:
    out = folder / "interrupted"
    shutil.copytree(run.path, out)
    (out / "predictions.csv").unlink()
    run_again = RunDir(out)
    run_again.best.write_bytes(b"cut short")
    train(recipe, out)
    for name in ("predictions.csv", "metrics.jsonl"):
        assert (out / name).read_bytes() == (run.path / name).read_bytes()


def test_a_finished_run_is_left_alone(recipe: Recipe, run: RunDir) -> None:
    before = run.predictions().stat().st_mtime_ns
    train(recipe, run.path)
    assert run.predictions().stat().st_mtime_ns == before


def test_the_average_of_the_weights_is_evaluated(recipe: Recipe, run: RunDir, folder: Path) -> None:
    train(with_fields(recipe, "training", ema=0.9), folder / "ema")
    again = open_run(folder / "ema").predict("test")
    written = read_predictions(RunDir(folder / "ema").predictions())
    assert abs(again.probabilities - written.probabilities).max() < 2e-3
    plain = read_predictions(run.predictions())
    assert abs(plain.probabilities - written.probabilities).max() > 1e-3


def test_it_learns_features_that_tell_the_class(
    recipe: Recipe, run: RunDir, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: FeatureMaps, rows: Any) -> torch.Tensor:
        labels = [CLASSES.index(name) for name in self.table["dx"].iloc[rows]]
        maps = torch.zeros(len(rows), 96, 2, 2)
        maps[torch.arange(len(rows)), labels] = 1
        return maps

    monkeypatch.setattr(FeatureMaps, "read", read)
    fast = with_fields(recipe, "optimizer", lr=0.1)
    train(with_fields(fast, "training", epochs=8), folder / "planted")
    found = read_predictions(RunDir(folder / "planted").predictions())
    assert (found.probabilities.argmax(1) == found.targets).all()
    assert found.probabilities.max(1).mean() > 0.9


@pytest.mark.parametrize(
    ("section", "field", "value"),
    [
        ("data", "augment", "flips"),
        ("data", "mix", "mixup"),
        ("data", "metadata", True),
        ("model", "drop_block_rate", 0.1),
        ("training", "tta", 8),
        ("training", "crops", 4),
        ("training", "precision", "bf16"),
    ],
)
def test_settings_that_cannot_apply(
    section: str, field: str, value: object, recipe: Recipe, tmp_path: Path
) -> None:
    message = rf"so {section}\.{field} cannot be {value!r}\. Set {section}\.{field}="
    wrong = with_fields(recipe, section, **{field: value})
    with pytest.raises(RecipeError, match=message):
        check_frozen(wrong)
    with pytest.raises(RecipeError, match=message):
        train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_selection_without_a_validation_set(recipe: Recipe, run: RunDir, folder: Path) -> None:
    paper = with_fields(recipe, "data", protocol="paper")
    with pytest.raises(RecipeError, match=r"no validation set, and log_loss selects the weights"):
        train(paper, folder / "paper")
    last = with_fields(paper, "training", monitor="epoch", mode="max", stop_monitor="log_loss")
    train(last, folder / "paper")
    lines = RunDir(folder / "paper").metrics.read_text().splitlines()
    assert [json.loads(line)["split"] for line in lines] == ["train", "train", "test"]


def test_features_of_another_normalization(recipe: Recipe, run: RunDir, folder: Path) -> None:
    other = with_fields(recipe, "model", mean=(0.4, 0.5, 0.5))
    with pytest.raises(CacheError, match=r"mean \[0.5, 0.5, 0.5\] instead of \[0.4, 0.5, 0.5\]"):
        train(other, folder / "other-mean")


def test_a_loss_that_is_not_finite(
    recipe: Recipe, run: RunDir, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(self: object, rows: Any) -> torch.Tensor:
        return torch.full((len(rows), 96, 2, 2), torch.nan)

    monkeypatch.setattr(FeatureMaps, "read", read)
    with pytest.raises(TrainingError, match=r"loss of step 1 is not finite\. Lower optimizer.lr"):
        train(recipe, folder / "nan")


def test_changes_after_training(run: RunDir, folder: Path) -> None:
    out = folder / "changed"
    shutil.copytree(run.path, out)
    with (out / "split.csv").open("a") as file:
        file.write("\n")
    with pytest.raises(SplitError, match=r"split\.csv was changed after training"):
        open_run(out).load_model()
    shutil.copy(run.split, out / "split.csv")
    weights = folder / "tiny.pth"
    before = weights.read_bytes()
    try:
        torch.manual_seed(1)
        torch.save(timm.create_model("test_resnet").state_dict(), weights)
        with pytest.raises(TrainingError, match="weights of the backbone are not those"):
            open_run(out).load_model()
    finally:
        weights.write_bytes(before)


def test_weights_of_another_head(run: RunDir, folder: Path) -> None:
    out = folder / "edited"
    shutil.copytree(run.path, out)
    text = (out / "recipe.yaml").read_text()
    (out / "recipe.yaml").write_text(text.replace("head: pool", "head: probe"))
    with pytest.raises(RecipeError, match=r"recipe was changed after training began: model\.head"):
        open_run(out).load_model()


def test_image_files_are_predicted_with_the_complete_model(run: RunDir, synthetic: Path) -> None:
    written = read_predictions(run.predictions()).table.head(5)
    files = open_folder(synthetic).images
    found = open_run(run.path).predict_images([files[name] for name in written["image_id"]])
    # Heads are trained and tested on features in half precision.
    assert found.to_numpy() == pytest.approx(written[list(CLASSES)].to_numpy(), abs=2e-3)
