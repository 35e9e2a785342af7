import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from ham10000.data import Augment, CachedHAM10000, prepare
from ham10000.errors import ArgumentError, CacheError, MissingDataError, RecipeError
from ham10000.models import build_model, check_features, extract_features, open_features
from ham10000.models import features as module
from ham10000.recipe import Recipe, make_recipe


@pytest.fixture(scope="module")
def cache(synthetic: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("features") / "cache"
    prepare(synthetic, out, 64)
    return out


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """A frozen recipe with weights of a tiny model in a file."""
    path = tmp_path_factory.mktemp("weights") / "tiny.pth"
    torch.manual_seed(0)
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    model = {"backbone": "timm:test_resnet", "weights": str(path), "head": "pool"}
    return make_recipe({"name": "frozen", "data": {"size": 64}, "model": model})


@pytest.fixture(scope="module")
def made(recipe: Recipe, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A feature array. It is shared, so tests must not change it."""
    out = tmp_path_factory.mktemp("made") / "features"
    extract_features(recipe, cache, out)
    return out


@pytest.fixture
def out(recipe: Recipe, cache: Path, tmp_path: Path) -> Path:
    extract_features(recipe, cache, tmp_path / "features")
    return tmp_path / "features"


def changed(recipe: Recipe, **fields: object) -> Recipe:
    return replace(recipe, model=replace(recipe.model, **fields))


def forbid(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(*arguments: object) -> None:
        raise AssertionError("features were computed again")

    monkeypatch.setattr(module, "_write", write)


def test_maps_are_those_of_the_model(recipe: Recipe, cache: Path, made: Path) -> None:
    features = open_features(made, recipe)
    data = CachedHAM10000(cache)
    model = build_model(recipe).eval()
    images, _ = data.read([0, 100, 279])
    with torch.no_grad():
        expected = model.network.backbone(Augment("none")(images, torch.arange(3), 0))
    assert features.maps.shape == (280, *expected.shape[1:])
    assert features.maps.dtype == np.float16
    found = features.read(np.array([0, 100, 279]))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert list(features.table["image_id"]) == list(data.table["image_id"])


def test_the_manifest(made: Path) -> None:
    manifest = json.loads((made / "features.json").read_text())
    assert manifest["fields"]["backbone"] == "timm:test_resnet"
    assert manifest["fields"]["mean"] == [0.5, 0.5, 0.5]
    assert (manifest["fields"]["size"], manifest["layout"]) == (64, "NCHW")
    assert manifest["versions"]["torch"] == torch.__version__.partition("+")[0]
    check_features(made)


def test_an_array_that_is_truncated_in_use_is_named(recipe: Recipe, out: Path) -> None:
    features = open_features(out, recipe)
    rows = np.array([len(features.table) - 1])
    assert features.read(rows).isfinite().all()
    os.truncate(out / "maps.npy", 4096)
    with pytest.raises(CacheError, match=r"maps.npy was truncated while it was in use. Compute"):
        features.read(rows)


def test_they_are_computed_once(
    recipe: Recipe, cache: Path, made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbid(monkeypatch)
    assert len(extract_features(recipe, cache, made).maps) == 280


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"mean": (0.1, 0.5, 0.5)},
            r"they have mean \[0.5, 0.5, 0.5\] instead of \[0.1, 0.5",
        ),
        ({"at": "layer2", "pretrained": True}, r"at None instead of .*, pretrained False instead"),
        ({"backbone": "timm:test_vit"}, "backbone 'timm:test_resnet' instead of 'timm:test_vit'"),
    ],
)
def test_features_of_another_recipe(
    fields: dict[str, object], message: str, recipe: Recipe, made: Path
) -> None:
    with pytest.raises(CacheError, match=message):
        open_features(made, changed(recipe, **fields))


def test_weights_that_have_changed(recipe: Recipe, cache: Path, out: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(timm.create_model("test_resnet").state_dict(), path)
    manifest = json.loads((out / "features.json").read_text())
    manifest["fields"]["weights"] = str(path)
    (out / "features.json").write_text(json.dumps(manifest))
    with pytest.raises(CacheError, match="they have weights_sha256"):
        extract_features(changed(recipe, weights=str(path)), cache, out)


def truncate(out: Path) -> None:
    path = out / "maps.npy"
    path.write_bytes(path.read_bytes()[:1000])


def flip(out: Path) -> None:
    raw = bytearray((out / "maps.npy").read_bytes())
    raw[-1] ^= 1
    (out / "maps.npy").write_bytes(raw)


def remove(out: Path) -> None:
    (out / "maps.npy").unlink()


def shorten(out: Path) -> None:
    text = (out / "index.csv").read_text().splitlines(keepends=True)
    (out / "index.csv").write_text("".join(text[:-1]))


def scribble(out: Path) -> None:
    (out / "features.json").write_text("[1")


@pytest.mark.parametrize("damage", [truncate, flip, remove, shorten, scribble])
def test_damaged_features_are_computed_again(
    damage: Callable[[Path], None], recipe: Recipe, cache: Path, out: Path, made: Path
) -> None:
    damage(out)
    with pytest.raises(CacheError, match=r"Compute them again with: ham10000 features RECIPE"):
        check_features(out)
    extract_features(recipe, cache, out)
    for name in ("maps.npy", "index.csv", "features.json"):
        assert (out / name).read_bytes() == (made / name).read_bytes()


def test_features_of_other_images_are_computed_again(
    recipe: Recipe, out: Path, editable: Path, tmp_path: Path
) -> None:
    image = sorted(editable.rglob("ISIC_*.jpg"))[0]
    image.write_bytes(sorted(editable.rglob("ISIC_*.jpg"))[1].read_bytes())
    prepare(editable, tmp_path / "cache", 64)
    before = (out / "maps.npy").read_bytes()
    extract_features(recipe, tmp_path / "cache", out)
    assert (out / "maps.npy").read_bytes() != before


def test_an_interrupted_extraction_leaves_no_features(
    recipe: Recipe, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(CachedHAM10000, "read", interrupt)
    with pytest.raises(KeyboardInterrupt):
        extract_features(recipe, cache, tmp_path / "features")
    with pytest.raises(MissingDataError, match=r"there is no features.json in it"):
        open_features(tmp_path / "features", recipe)
    monkeypatch.undo()
    extract_features(recipe, cache, tmp_path / "features")
    names = sorted(path.name for path in (tmp_path / "features").iterdir())
    assert names == [".lock", "features.json", "index.csv", "maps.npy"]


def test_a_backbone_without_weights(recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"has no pretrained weights.*Set model.weights"):
        extract_features(changed(recipe, weights=None), cache, tmp_path / "features")


def test_values_that_float16_cannot_hold(recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    state = torch.load(str(recipe.model.weights), weights_only=True)
    name = [name for name in state if name.startswith("layer4") and name.endswith("bn2.bias")][-1]
    state[name] = state[name] + 1e5
    torch.save(state, tmp_path / "large.pth")
    large = changed(recipe, weights=str(tmp_path / "large.pth"))
    with pytest.raises(RecipeError, match="values that float16 cannot hold"):
        extract_features(large, cache, tmp_path / "features")


def test_a_folder_of_something_else(recipe: Recipe, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ArgumentError, match=r"has 'notes.txt' in it"):
        extract_features(recipe, cache, tmp_path)
