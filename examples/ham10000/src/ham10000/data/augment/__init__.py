"""Augmentation of batches on any device; each sample has parameters of its own."""

from ham10000.data.augment.augment import PRESETS, Augment, Preset, cutmix, mixup
from ham10000.data.augment.offline import OfflineHAM10000, augment_offline, offline_plan

__all__ = [
    "PRESETS",
    "Augment",
    "OfflineHAM10000",
    "Preset",
    "augment_offline",
    "cutmix",
    "mixup",
    "offline_plan",
]
