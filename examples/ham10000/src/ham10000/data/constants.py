"""Constants of HAM10000: classes, columns and counts.

Source: Tschandl, Rosendahl and Kittler, Sci. Data 5, 180161 (2018), doi:10.7910/DVN/DBW86T.
"""

CLASSES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
"""The seven diagnoses in alphabetical order. A target is an index of this tuple."""

CLASS_NAMES = {
    "akiec": "actinic keratosis, Bowen's disease",
    "bcc": "basal cell carcinoma",
    "bkl": "benign keratosis",
    "df": "dermatofibroma",
    "mel": "melanoma",
    "nv": "melanocytic nevus",
    "vasc": "vascular lesion",
}

TABLE_COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")

SPLITS = ("train", "val", "test")

PUBLISHED_SPLIT = "published_split"
"""Column of the table of data sets with a published split."""

SEXES = ("female", "male")
DX_TYPES = ("confocal", "consensus", "follow_up", "histo")
LOCALIZATIONS = (
    "abdomen",
    "acral",
    "back",
    "chest",
    "ear",
    "face",
    "foot",
    "genital",
    "hand",
    "lower extremity",
    "neck",
    "scalp",
    "trunk",
    "upper extremity",
)

NUM_IMAGES = 10_015
NUM_LESIONS = 7_470
CLASS_COUNTS = {
    "akiec": 327,
    "bcc": 514,
    "bkl": 1_099,
    "df": 115,
    "mel": 1_113,
    "nv": 6_705,
    "vasc": 142,
}
NUM_TEST_IMAGES = 1_511
"""Size of the official test set of ISIC 2018 Task 3 in the Dataverse; the challenge has 1,512."""

IMAGE_WIDTH, IMAGE_HEIGHT = 600, 450
"""Size of the published images in pixels."""

LICENCE = (
    "HAM10000 is published under CC BY-NC 4.0 (https://creativecommons.org/licenses/by-nc/4.0/): "
    "name its authors, and don't use it commercially. Cite: Tschandl, P., Rosendahl, C., "
    "Kittler, H., The HAM10000 dataset, Sci. Data 5, 180161 (2018), doi:10.7910/DVN/DBW86T."
)
