"""HAM10000: its constants, files, splits, cache, batches and augmentation.

Other packages import these names from here, and none from the modules of this package.
"""

from ham10000.data.augment import (
    PRESETS,
    Augment,
    Preset,
    augment_offline,
    cutmix,
    mixup,
    offline_plan,
)
from ham10000.data.cache import Cache, Prepared, open_cache, prepare, read_manifest
from ham10000.data.constants import (
    CLASS_COUNTS,
    CLASS_NAMES,
    CLASSES,
    DX_TYPES,
    IMAGE_HEIGHT,
    IMAGE_WIDTH,
    LICENCE,
    LOCALIZATIONS,
    NUM_IMAGES,
    NUM_LESIONS,
    NUM_TEST_IMAGES,
    SEXES,
    TABLE_COLUMNS,
)
from ham10000.data.dataset import HAM10000, CachedHAM10000
from ham10000.data.download.download import PARTS, SOURCES, Part, download_dataset
from ham10000.data.duplicates import find_pairs, lesion_groups, read_pairs, scan_pairs, write_pairs
from ham10000.data.folder import (
    DATA_VARIABLE,
    Folder,
    data_folder,
    find_files,
    find_table,
    open_folder,
)
from ham10000.data.images import read_image, read_mask, resize
from ham10000.data.isic2018 import convert_challenge
from ham10000.data.loader import Augmentation, Batch, Batches, BatchLoader
from ham10000.data.metadata import (
    METADATA,
    encode_metadata,
    feature_names,
    metadata_features,
    read_csv,
    read_table,
)
from ham10000.data.samplers import BALANCES, EpochSampler, SequentialShard
from ham10000.data.splits import (
    SPLITS,
    check_split,
    honest_split,
    kfold_split,
    paper_split,
    read_split,
    split_counts,
    split_rows,
    write_split,
)
from ham10000.data.synthetic import synthesize, synthetic_table
from ham10000.data.verify import Finding, Report, verify_dataset

__all__ = [
    "BALANCES",
    "CLASSES",
    "CLASS_COUNTS",
    "CLASS_NAMES",
    "DATA_VARIABLE",
    "DX_TYPES",
    "HAM10000",
    "IMAGE_HEIGHT",
    "IMAGE_WIDTH",
    "LICENCE",
    "LOCALIZATIONS",
    "METADATA",
    "NUM_IMAGES",
    "NUM_LESIONS",
    "NUM_TEST_IMAGES",
    "PARTS",
    "PRESETS",
    "SEXES",
    "SOURCES",
    "SPLITS",
    "TABLE_COLUMNS",
    "Augment",
    "Augmentation",
    "Batch",
    "BatchLoader",
    "Batches",
    "Cache",
    "CachedHAM10000",
    "EpochSampler",
    "Finding",
    "Folder",
    "Part",
    "Prepared",
    "Preset",
    "Report",
    "SequentialShard",
    "augment_offline",
    "check_split",
    "convert_challenge",
    "cutmix",
    "data_folder",
    "download_dataset",
    "encode_metadata",
    "feature_names",
    "find_files",
    "find_pairs",
    "find_table",
    "honest_split",
    "kfold_split",
    "lesion_groups",
    "metadata_features",
    "mixup",
    "offline_plan",
    "open_cache",
    "open_folder",
    "paper_split",
    "prepare",
    "read_csv",
    "read_image",
    "read_manifest",
    "read_mask",
    "read_pairs",
    "read_split",
    "read_table",
    "resize",
    "scan_pairs",
    "split_counts",
    "split_rows",
    "synthesize",
    "synthetic_table",
    "verify_dataset",
    "write_pairs",
    "write_split",
]
