"""Numbers that others published on the authors' test set of 828 images, to stand beside ours."""

from dataclasses import dataclass

__all__ = ["PUBLISHED", "SOURCES", "Published"]


@dataclass(frozen=True)
class Published:
    """One model of one source."""

    source: str
    """A key of `SOURCES`."""
    backbone: str
    attention: bool
    precision: float
    """Weighted by class, as are accuracy and area."""
    accuracy: float
    auc: float
    balanced_accuracy: float
    """The mean of the classes' recalls."""


SOURCES = {
    "authors": (
        "Datta, Shaikh, Srihari and Gao, Soft-Attention Improves Skin Cancer Classification "
        "Performance, iMIMIC 2021, doi:10.1007/978-3-030-87444-5_2. From the notebooks of their "
        "repository, skrantidatta/Attention-based-Skin-Cancer-Classification. One run each, the "
        "weights chosen on the test set."
    ),
    "re-run": (
        "An independent re-run in Keras 3 with the same split and augmentation and one seed, "
        "kanhaiyak23/skin-lesion-soft-attention-reproduction. Its intervals for the weighted "
        "precision are 0.887 to 0.932 without and 0.891 to 0.935 with soft attention."
    ),
}
"""Where the numbers are from, and what to know about them."""

PUBLISHED = (
    Published("authors", "VGG16", False, 0.862, 0.870, 0.951, 0.567),
    Published("authors", "VGG16", True, 0.882, 0.877, 0.949, 0.673),
    Published("authors", "ResNet34", False, 0.858, 0.862, 0.942, 0.631),
    Published("authors", "ResNet34", True, 0.866, 0.877, 0.957, 0.572),
    Published("authors", "ResNet50", False, 0.898, 0.905, 0.973, 0.722),
    Published("authors", "ResNet50", True, 0.911, 0.915, 0.979, 0.690),
    Published("authors", "DenseNet201", False, 0.904, 0.908, 0.974, 0.640),
    Published("authors", "DenseNet201", True, 0.910, 0.908, 0.976, 0.720),
    Published("authors", "Inception-ResNet-v2", False, 0.906, 0.912, 0.983, 0.689),
    Published("authors", "Inception-ResNet-v2", True, 0.938, 0.935, 0.984, 0.719),
    Published("re-run", "Inception-ResNet-v2", False, 0.909, 0.916, 0.978, 0.720),
    Published("re-run", "Inception-ResNet-v2", True, 0.913, 0.918, 0.981, 0.713),
)
