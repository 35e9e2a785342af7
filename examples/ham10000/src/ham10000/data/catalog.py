"""Descriptions of the known data sets, by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from ham10000.data.constants import (
    CLASS_COUNTS,
    CLASS_NAMES,
    CLASSES,
    LICENCE,
    NUM_IMAGES,
    NUM_LESIONS,
    SPLITS,
    TABLE_COLUMNS,
)
from ham10000.data.descriptions import DatasetInfo, TableFormat, read_description
from ham10000.errors import ArgumentError, DataError, closest

__all__ = [
    "DATASETS",
    "HAM10000_INFO",
    "ISIC2017_PARTS",
    "dataset_of_classes",
    "find_dataset",
]

_COLUMN_OF_CLASS = {name.upper(): name for name in CLASSES}

HAM10000_INFO = DatasetInfo(
    name="ham10000",
    title="HAM10000",
    class_names=CLASS_NAMES,
    tables=(
        TableFormat(files=("HAM10000_metadata.csv",), required=TABLE_COLUMNS),
        TableFormat(
            files=("ISIC2018_Task3_Training_GroundTruth.csv",),
            image="image",
            label="",
            labels=_COLUMN_OF_CLASS,
            columns={"dx_type": "diagnosis_confirm_type"},
            details="ISIC2018_Task3_Training_LesionGroupings.csv",
            required=("lesion_id", "diagnosis_confirm_type"),
            advice="Get it with: ham10000 download --source isic --parts metadata --out DIR",
        ),
    ),
    image_folders=(
        "HAM10000_images_part_1",
        "HAM10000_images_part_2",
        "ISIC2018_Task3_Training_Input",
    ),
    mask_folders=("HAM10000_segmentations_lesion_tschandl",),
    sources=("dataverse", "kaggle", "isic"),
    where_to_get="with: ham10000 download --parts {part} --out DIR",
    licence=LICENCE,
    num_images=NUM_IMAGES,
    num_lesions=NUM_LESIONS,
    class_counts=CLASS_COUNTS,
)

ISIC2017_PARTS = ("Training", "Validation", "Test_v2")


def _isic2017(task: str, positive: str, column: str, names: Mapping[str, str]) -> DatasetInfo:
    """Describe a binary task of ISIC 2017, Part 3: one class against the two others."""
    other = "seborrheic_keratosis" if column == "melanoma" else "melanoma"
    count = {"mel": 521, "sk": 386}[positive]
    return DatasetInfo(
        name=f"isic2017-{task}",
        title=f"ISIC 2017 ({task})",
        class_names=names,
        tables=(
            TableFormat(
                files=tuple(f"ISIC-2017_{part}_Part3_GroundTruth.csv" for part in ISIC2017_PARTS),
                label="",
                labels={column: positive, other: "other"},
                rest="other",
                own_lesions=True,
                splits=SPLITS,
            ),
        ),
        image_folders=tuple(f"ISIC-2017_{part}_Data" for part in ISIC2017_PARTS),
        mask_folders=tuple(f"ISIC-2017_{part}_Part1_GroundTruth" for part in ISIC2017_PARTS),
        ignored=".*_superpixels",
        sources=("isic2017",),
        where_to_get=f"with: ham10000 download --set isic2017-{task} --parts {{part}} --out DIR",
        licence=(
            "The images of ISIC 2017 are in the public domain (CC0). Cite: Codella, N., et al., "
            "Skin lesion analysis toward melanoma detection: A challenge at the 2017 International "
            "Symposium on Biomedical Imaging (ISBI), hosted by the International Skin Imaging "
            "Collaboration (ISIC), arXiv:1710.05006."
        ),
        num_images=2_750,
        class_counts={"other": 2_750 - count, positive: count},
    )


ISIC2017_INFOS = (
    _isic2017(
        "melanoma",
        "mel",
        "melanoma",
        {"other": "nevus or seborrheic keratosis", "mel": "melanoma"},
    ),
    _isic2017(
        "keratosis",
        "sk",
        "seborrheic_keratosis",
        {"other": "nevus or melanoma", "sk": "seborrheic keratosis"},
    ),
)
"""The two binary tasks of ISIC 2017, Part 3. Its images have no lesion ids."""

_ISIC2019_CLASSES = {
    "ak": "actinic keratosis",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "scc": "squamous cell carcinoma",
    "vasc": "vascular lesion",
}

ISIC2019_INFO = DatasetInfo(
    name="isic2019",
    title="ISIC 2019",
    class_names=_ISIC2019_CLASSES,
    tables=(
        TableFormat(
            files=("ISIC_2019_Training_GroundTruth.csv",),
            image="image",
            label="",
            labels={
                name.upper(): name
                for name in ("mel", "nv", "bcc", "ak", "bkl", "df", "vasc", "scc")
            },
            columns={"age": "age_approx", "localization": "anatom_site_general"},
            details="ISIC_2019_Training_Metadata.csv",
            required=("age_approx", "anatom_site_general", "lesion_id", "sex"),
            own_lesions=True,
        ),
    ),
    image_folders=("ISIC_2019_Training_Input",),
    image_ending="_downsampled",
    where_to_get="from https://challenge.isic-archive.com/data/#2019",
    licence=(
        "ISIC 2019 is published under CC BY-NC 4.0 "
        "(https://creativecommons.org/licenses/by-nc/4.0/): name its authors, and don't use it "
        "commercially. Cite: Tschandl, P., et al., Sci. Data 5, 180161 (2018); Codella, N., et "
        "al., arXiv:1710.05006; Combalia, M., et al., BCN20000, arXiv:1908.02288."
    ),
    num_images=25_331,
    class_counts={
        "ak": 867,
        "bcc": 3_323,
        "bkl": 2_624,
        "df": 239,
        "mel": 4_522,
        "nv": 12_875,
        "scc": 628,
        "vasc": 253,
    },
)

DATASETS: Mapping[str, DatasetInfo] = {
    info.name: info for info in (HAM10000_INFO, *ISIC2017_INFOS, ISIC2019_INFO)
}
"""Descriptions of the known data sets by name."""


def find_dataset(name: str | Path) -> DatasetInfo:
    """Return the description of a data set: a known one, or that in a YAML file.

    Example:
        >>> from ham10000.data import find_dataset
        >>> find_dataset("ham10000").title
        'HAM10000'

    Args:
        name: Name of a known data set, or path of a file; see `read_description`.

    Raises:
        ArgumentError: There is no known data set of this name, and no such file.
        DataError: The file is not a description, or has the name of a known data set.
    """
    if str(name) in DATASETS:
        return DATASETS[str(name)]
    if Path(name).is_file():
        info = read_description(Path(name))
        if info.name.casefold() in DATASETS:
            raise DataError(
                f"reading the data set {name}: its name {info.name} is that of a known data set. "
                "Choose another name."
            )
        return info
    what = "there is no such file"
    if Path(name).suffix not in (".yaml", ".yml"):
        what = f"no known data set has this name. {closest(str(name), DATASETS)}"
    raise ArgumentError(f"finding the data set {name}: {what.rstrip('.')}.")


def dataset_of_classes(classes: Sequence[str]) -> DatasetInfo | None:
    """Return the known data set with these classes, in this order; `None` if there is none."""
    known = (info for info in DATASETS.values() if info.classes == tuple(classes))
    return next(known, None)
