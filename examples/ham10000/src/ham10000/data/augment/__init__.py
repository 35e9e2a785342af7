"""Augmentation of batches on any device, each sample with parameters of its own."""

from ham10000.data.augment.batch import PRESETS, Augment, Preset
from ham10000.data.augment.mixing import cutmix, mixup

__all__ = ["PRESETS", "Augment", "Preset", "cutmix", "mixup"]
