from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from ham10000.data import (
    find_pairs,
    known_pairs,
    lesion_groups,
    load_table,
    open_folder,
    read_image,
    read_pairs,
    scan_pairs,
    write_pairs,
)
from ham10000.data.duplicates import fingerprint, hash_distance, similarity, spectrum
from ham10000.errors import DataError


@pytest.fixture
def images(synthetic: Path) -> list[Tensor]:
    folder = open_folder(synthetic)
    rows = folder.table.drop_duplicates("lesion_id").index[:20]
    return [read_image(folder.paths()[row]) for row in rows]


def shifted(image: Tensor, pixels: int) -> Tensor:
    return image.roll(pixels, 2)


def changed(image: Tensor) -> Tensor:
    """Darken an image, reduce its contrast and shift it, like another photograph of the lesion."""
    return shifted((image.float() * 0.8 + 10).to(torch.uint8), 1)


def test_fingerprints_match_for_the_same_lesion_only(images: list[Tensor]) -> None:
    prints = [fingerprint(image) for image in images]
    again = [fingerprint(changed(image)) for image in images]
    greys = spectrum(np.stack([each.grey for each in prints]))
    others = spectrum(np.stack([each.grey for each in again]))
    same = similarity(greys, others)
    different = similarity(greys, others.roll(1, 0))
    assert same.min() > 0.4 > different.max()
    distances = [hash_distance(a.hash, b.hash) for a, b in zip(prints, again, strict=True)]
    assert sum(distances) / len(distances) < 10


def test_an_image_is_wholly_similar_to_itself(images: list[Tensor]) -> None:
    greys = spectrum(np.stack([fingerprint(image).grey for image in images[:3]]))
    assert similarity(greys, greys).tolist() == pytest.approx([1, 1, 1], abs=1e-3)


def test_pairs_are_found_across_lesions_only(images: list[Tensor]) -> None:
    shown = [*images, changed(images[3]), changed(images[5])]
    ids = [f"I{number}" for number in range(len(shown))]
    lesions = [f"L{number}" for number in range(len(images))] + ["other", "L5"]
    table = pd.DataFrame({"image_id": ids, "lesion_id": lesions})
    pairs = find_pairs(table, [fingerprint(image) for image in shown])
    assert pairs[["image_id", "other_image_id"]].to_numpy().tolist() == [["I3", "I20"]]
    assert pairs[["lesion_id", "other_lesion_id"]].to_numpy().tolist() == [["L3", "other"]]


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
    columns = ["image_id", "other_image_id", "lesion_id", "other_lesion_id", "similarity"]
    for rows in ([["a", "b", "x", "y", 0.5]], []):
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
