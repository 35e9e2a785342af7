from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ham10000.data import (
    find_pairs,
    known_pairs,
    lesion_groups,
    load_table,
    open_folder,
    read_image,
    read_pairs,
    scan_pairs,
    synthesize,
    write_pairs,
)
from ham10000.data.duplicates import (
    MIN_PLACES,
    Features,
    count_places,
    describe,
    fingerprint,
)
from ham10000.errors import DataError


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[Tensor]:
    """One image of each of 16 lesions, in the size of the smallest copies of HAM10000."""
    out = tmp_path_factory.mktemp("duplicates") / "set"
    synthesize(out, images=40, seed=0, width=200)
    folder = open_folder(out)
    rows = folder.table.drop_duplicates("lesion_id").index[:16]
    return [read_image(folder.paths()[row]) for row in rows]


def moved(image: Tensor, angle: float, shift: int, scale: float) -> Tensor:
    return F.affine(
        image, angle, [shift, shift // 2], scale, [0.0], F.InterpolationMode.BILINEAR, fill=[200.0]
    )


def changed(image: Tensor) -> Tensor:
    """Darken an image, reduce its contrast and move it, like another photograph of the lesion."""
    return moved((image.float() * 0.8 + 10).to(torch.uint8), 20, 8, 1.1)


def compressed(image: Tensor) -> Tensor:
    code = cv2.imencode(".jpg", image.permute(1, 2, 0).numpy(), [cv2.IMWRITE_JPEG_QUALITY, 40])[1]
    return torch.from_numpy(cv2.imdecode(code, cv2.IMREAD_COLOR)).permute(2, 0, 1)


@pytest.mark.parametrize(
    "change",
    [
        changed,
        lambda image: image,
        lambda image: moved(image, 90, 0, 1),
        lambda image: moved(image, 0, 30, 1),
        lambda image: moved(image, 0, 0, 1.5),
        lambda image: F.resize(image, [100, 133], antialias=True),
        compressed,
        lambda image: (image * torch.tensor([1, 0.7, 0.6])[:, None, None]).to(torch.uint8),
    ],
    ids=["photograph", "copy", "rotated", "shifted", "zoomed", "reduced", "JPEG", "colours"],
)
def test_changed_images_match_their_originals_only(
    images: list[Tensor], change: Callable[[Tensor], Tensor]
) -> None:
    shown = [*images, *(change(image) for image in images)]
    features = describe([fingerprint(image) for image in shown])
    originals, copies = features[: len(images)], features[len(images) :]
    same = [count_places(*pair) for pair in zip(originals, copies, strict=True)]
    different = [count_places(*pair) for pair in zip(originals, copies[1:], strict=False)]
    assert min(same) >= MIN_PLACES > max(different)


def test_features_at_one_place_count_once() -> None:
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(32, 32)))[0].astype(np.float32)
    apart = Features(rng.uniform(0, 150, (32, 2)).astype(np.float32), vectors)
    near = Features(apart.points / 20, vectors)
    assert count_places(apart, apart) >= 25
    assert count_places(near, near) == count_places(apart, near) == 1


def test_features_at_unrelated_places_do_not_match() -> None:
    rng = np.random.default_rng(0)
    vectors = np.linalg.qr(rng.normal(size=(32, 32)))[0].astype(np.float32)
    first, second = (
        Features(rng.uniform(0, 150, (32, 2)).astype(np.float32), vectors) for _ in range(2)
    )
    assert count_places(first, second) < MIN_PLACES


def test_pairs_are_found_across_lesions_only(images: list[Tensor]) -> None:
    shown = [*images, changed(images[3]), changed(images[5])]
    ids = [f"I{number}" for number in range(len(shown))]
    lesions = [f"L{number}" for number in range(len(images))] + ["other", "L5"]
    table = pd.DataFrame({"image_id": ids, "lesion_id": lesions})
    pairs = find_pairs(table, [fingerprint(image) for image in shown])
    assert pairs[["image_id", "other_image_id"]].to_numpy().tolist() == [["I3", "I16"]]
    assert pairs[["lesion_id", "other_lesion_id"]].to_numpy().tolist() == [["L3", "other"]]
    assert pairs["places"].min() >= MIN_PLACES
    assert pairs.equals(find_pairs(table, [fingerprint(image) for image in shown]))


def test_a_blank_image_is_like_no_other(images: list[Tensor]) -> None:
    blank = torch.zeros(3, 30, 40, dtype=torch.uint8)
    table = pd.DataFrame({"image_id": ["a", "b", "c"], "lesion_id": ["x", "y", "z"]})
    assert find_pairs(table, [fingerprint(image) for image in (blank, blank, images[0])]).empty


def test_no_images_have_no_pairs() -> None:
    assert find_pairs(pd.DataFrame({"image_id": [], "lesion_id": []}), []).empty


def test_groups_are_the_same_for_a_chain_of_pairs() -> None:
    table = pd.DataFrame({"image_id": list("12345"), "lesion_id": ["a", "b", "c", "d", "b"]})
    pairs = pd.DataFrame({"lesion_id": ["a", "c"], "other_lesion_id": ["b", "b"]})
    groups = lesion_groups(table, pairs).tolist()
    assert groups[0] == groups[1] == groups[2] == groups[4] != groups[3]


def test_known_duplicates_are_always_in_one_group(real: Path) -> None:
    table = load_table(real)
    known = known_pairs(table)
    assert len(known) == 18
    groups = pd.Series(lesion_groups(table), index=table["image_id"])
    assert groups[known["image_id"]].tolist() == groups[known["other_image_id"]].tolist()
    assert groups.nunique() < table["lesion_id"].nunique()
    alone = lesion_groups(table, known=False)
    assert alone.max() + 1 == table["lesion_id"].nunique()


def test_known_duplicates_of_which_one_image_is_absent_are_left_out() -> None:
    table = pd.DataFrame({"image_id": ["ISIC_0033481", "I1"], "lesion_id": ["a", "b"]})
    assert known_pairs(table).empty
    assert lesion_groups(table).tolist() == [0, 1]


def test_pairs_of_another_data_set_are_refused() -> None:
    table = pd.DataFrame({"image_id": ["1", "2"], "lesion_id": ["a", "b"]})
    pairs = pd.DataFrame({"lesion_id": ["a"], "other_lesion_id": ["q"]})
    with pytest.raises(DataError, match="row 2 of the pairs names the lesions a and q"):
        lesion_groups(table, pairs)


def test_pairs_survive_their_file(tmp_path: Path) -> None:
    columns = ["image_id", "other_image_id", "lesion_id", "other_lesion_id", "places"]
    for rows in ([["a", "b", "x", "y", 15]], []):
        pairs = pd.DataFrame(rows, columns=columns)
        write_pairs(pairs, tmp_path / "pairs.csv")
        again = read_pairs(tmp_path / "pairs.csv")
        assert again["lesion_id"].tolist() == pairs["lesion_id"].tolist()


def test_a_data_set_is_scanned_from_its_files(editable: Path) -> None:
    before = len(scan_pairs(open_folder(editable)))
    folder = open_folder(editable)
    first, second = folder.table.drop_duplicates("lesion_id")["image_id"].iloc[[0, 30]]
    folder.images[second].write_bytes(folder.images[first].read_bytes())
    pairs = scan_pairs(open_folder(editable))
    assert len(pairs) > before
    assert [first, second] in pairs[["image_id", "other_image_id"]].to_numpy().tolist()
