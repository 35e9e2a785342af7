import pytest

from ham10000.data import (
    CLASS_COUNTS,
    DATASETS,
    HAM10000_INFO,
    DatasetInfo,
    dataset_of_classes,
    find_dataset,
)
from ham10000.errors import ArgumentError


@pytest.mark.parametrize("info", DATASETS.values(), ids=list(DATASETS))
def test_a_description_is_consistent(info: DatasetInfo) -> None:
    assert find_dataset(info.name) is info
    assert dataset_of_classes(info.classes) is info
    assert tuple(info.class_counts) == info.classes
    assert sum(info.class_counts.values()) == info.num_images
    for table in info.tables:
        assert {*table.labels.values(), *filter(None, [table.rest])} <= set(info.classes)
        assert len(table.splits) in (0, len(table.files))
    for part in ("images", "masks", "metadata"):
        advice = info.advice(part)
        assert advice.startswith("Get ")
        assert "{" not in advice


def test_ham10000_is_described_by_its_constants() -> None:
    assert HAM10000_INFO.classes == tuple(CLASS_COUNTS)
    assert HAM10000_INFO.positive is None
    assert not HAM10000_INFO.has_published_split


def test_the_tasks_of_isic_2017_are_binary_and_have_the_published_counts() -> None:
    melanoma, keratosis = (find_dataset(f"isic2017-{task}") for task in ("melanoma", "keratosis"))
    assert (melanoma.positive, keratosis.positive) == ("mel", "sk")
    assert melanoma.class_counts == {"other": 2_229, "mel": 521}
    assert keratosis.class_counts == {"other": 2_364, "sk": 386}
    assert melanoma.has_published_split
    assert keratosis.has_published_split
    assert melanoma.is_ignored("ISIC_0000001_superpixels")
    assert not melanoma.is_ignored("ISIC_0000001")


def test_an_unknown_name_has_the_closest_one() -> None:
    with pytest.raises(ArgumentError, match=r"isic2017-melanom: .*Closest: isic2017-melanoma"):
        find_dataset("isic2017-melanom")
    assert dataset_of_classes(["a", "b"]) is None
