"""Train recipes on any number of processes, and use the runs that result.

Other packages import these names from here, and none from the modules of this package.
"""

from ham10000.training.data import (
    claim_images,
    find_features,
    make_split,
    prepare_features,
    prepare_split,
    replace_run,
    wants_validation,
)
from ham10000.training.frozen import check_frozen, train_head
from ham10000.training.losses import build_loss
from ham10000.training.optim import Schedule, build_optimizer, build_schedule
from ham10000.training.predict import normalize, predict, read_pixels
from ham10000.training.processes import INTERRUPTED, LAUNCHED, launch
from ham10000.training.run import Run, find_images, find_predictions, open_run
from ham10000.training.run_dir import (
    LAUNCHER_LOCK,
    TRAINER_LOCK,
    RunDir,
    claim_run,
    dataset_of,
    find_run,
    lock_run,
)
from ham10000.training.train import train

__all__ = [
    "INTERRUPTED",
    "LAUNCHED",
    "LAUNCHER_LOCK",
    "TRAINER_LOCK",
    "Run",
    "RunDir",
    "Schedule",
    "build_loss",
    "build_optimizer",
    "build_schedule",
    "check_frozen",
    "claim_images",
    "claim_run",
    "dataset_of",
    "find_features",
    "find_images",
    "find_predictions",
    "find_run",
    "launch",
    "lock_run",
    "make_split",
    "normalize",
    "open_run",
    "predict",
    "prepare_features",
    "prepare_split",
    "read_pixels",
    "replace_run",
    "train",
    "train_head",
    "wants_validation",
]
