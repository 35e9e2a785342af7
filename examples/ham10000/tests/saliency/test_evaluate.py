import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from building import build_classifier
from PIL import Image
from planted import planted
from softattn import SoftAttentionClassifier
from torch import Tensor

from ham10000.data import open_folder
from ham10000.errors import MissingDataError
from ham10000.recipe import AttentionRecipe, ModelRecipe
from ham10000.saliency import (
    LOCALIZATION_CSV,
    LOCALIZATION_JSON,
    SCORES,
    attention_maps,
    curve_area,
    evaluate_saliency,
    image_network,
    localization_scores,
    write_saliency,
)
from ham10000.saliency.evaluate import (
    measure_faithfulness,
    measure_localization,
    measure_maps,
    read_masks,
)
from ham10000.saliency.scores import STATISTICS, map_statistics
from ham10000.training import open_run


def test_attention_is_found_where_it_was_planted(model: SoftAttentionClassifier) -> None:
    images, targets, masks = planted(240, seed=2)
    assert (model(images).argmax(1) == targets).float().mean() > 0.95

    def read(rows: Sequence[int]) -> Tensor:
        return images[list(rows)]

    found = measure_localization(model, read, range(240), masks)
    chance = {"pointing_game": 0.25, "energy_inside": 0.25, "iou": 0.25 / 1.75}
    for score in SCORES:
        assert found["attention"][score].mean() > chance[score] + 0.4
        assert found["grad_cam"][score].mean() > chance[score] + 0.4
        # A Gaussian in the middle and noise are at the level of chance, which is a quarter here.
        for blind in ("gaussian", "random"):
            assert found[blind][score].mean() == pytest.approx(chance[score], abs=0.1)
    # The next image's map is at that level too.
    shifted = localization_scores(attention_maps(model, images).roll(1, 0), masks)
    for score in ("pointing_game", "energy_inside"):
        assert shifted[score].mean() == pytest.approx(0.25, abs=0.1)
    assert shifted["iou"].mean() < found["attention"]["iou"].mean() / 2

    curves = measure_faithfulness(model, read, range(40), steps=8)
    for method in ("gaussian", "random"):
        for curve, sign in (("deletion", -1), ("insertion", 1)):
            seen, blind_area = (curve_area(curves[m][curve]).mean() for m in ("attention", method))
            assert sign * (seen - blind_area) > 0.05


@pytest.mark.parametrize("fusion", ["concat", "metanet", "metablock"])
def test_metadata_that_affects_the_map_is_unknown(fusion: str) -> None:
    recipe = ModelRecipe("ham10000:tiny", fusion=fusion)  # type: ignore[arg-type]
    model = build_classifier(recipe, attention=AttentionRecipe("soft"), size=32, metadata=True)
    model.eval()
    network = image_network(model)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 3, 32, 32, generator=generator)
    scores, maps = model(images, torch.zeros(4, model.metadata_features), return_maps=True)
    assert torch.equal(network(images), scores)
    assert torch.equal(attention_maps(network, images), maps.sum(1))
    masks = torch.rand(4, 32, 32, generator=generator) > 0.5
    found = measure_localization(network, lambda rows: images[list(rows)], range(4), masks)
    assert all(np.isfinite(values).all() for each in found.values() for values in each.values())


def test_metadata_that_is_added_to_the_logits_is_left_out() -> None:
    recipe, attention = ModelRecipe("ham10000:tiny"), AttentionRecipe("soft")
    for metadata in (False, True):
        model = build_classifier(recipe, attention=attention, size=32, metadata=metadata)
        assert image_network(model) is model.network


def test_batches_dont_matter(model: SoftAttentionClassifier) -> None:
    images, _, masks = planted(10, seed=3)
    one, other = (
        measure_localization(
            model, lambda rows: images[list(rows)], range(10), masks, batch_size=size
        )
        for size in (3, 10)
    )
    for method, scores in one.items():
        for score, values in scores.items():
            np.testing.assert_allclose(values, other[method][score], atol=1e-5)


def test_the_maps_of_a_trained_model_are_described(model: SoftAttentionClassifier) -> None:
    images, _, _ = planted(40, seed=5)
    found = measure_maps(model, lambda rows: images[list(rows)], range(40), batch_size=16)
    whole = map_statistics(model(images, return_maps=True)[1].detach())
    for name in STATISTICS:
        assert found[name].shape == (40,)
        np.testing.assert_allclose(found[name], whole[name], atol=1e-4)
    # The object is at a random place, and the maps are trained to follow it.
    assert found["entropy"].mean() < 0.95
    assert found["deviation"].mean() > 0.2


def test_images_without_a_mask_are_counted(editable: Path) -> None:
    folder = open_folder(editable)
    names = folder.table["image_id"].tolist()[:6]
    paths = {name: folder.masks[name] for name in names if name != names[2]}
    Image.new("L", (48, 36), 0).save(paths[names[4]])
    found = read_masks(paths, names, 16)
    assert found.kept == [0, 1, 3, 5]
    assert (found.missing, found.empty) == (1, 1)
    assert found.masks.shape == (4, 16, 16)
    assert found.masks.any(dim=2).any(dim=1).all()
    with pytest.raises(MissingDataError, match="none of the 6 images has a mask that is not empty"):
        read_masks({}, names, 16)


def test_a_run_is_evaluated_with_intervals_and_files(
    run: Path, synthetic: Path, tmp_path: Path
) -> None:
    found, images = evaluate_saliency(open_run(run), data=synthetic, faithful=2, steps=2)
    assert list(found["localisation"]["methods"]) == ["grad_cam", "gaussian", "random"]
    assert found["localisation"]["differences"] == {}, "the model has no attention"
    for scores in found["localisation"]["methods"].values():
        for each in scores.values():
            assert 0 <= each["low"] <= each["value"] <= each["high"] <= 1
    assert len(images) == 3 * found["images"]
    assert found["maps"] == {}
    assert found["faithfulness"]["images"] == 2
    assert len(found["faithfulness"]["curves"]["random"]["deletion"]) == 3
    write_saliency(found, images, tmp_path)
    assert json.loads((tmp_path / LOCALIZATION_JSON).read_text()) == found
    table = pd.read_csv(tmp_path / LOCALIZATION_CSV)
    assert table["iou"].to_numpy() == pytest.approx(images["iou"].to_numpy(), abs=1e-5)
