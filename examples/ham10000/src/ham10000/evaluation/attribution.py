"""Maps of where a model looks, and of what looks nowhere: what attention is compared with."""

from collections.abc import Callable

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from softattn import SpatialBackbone
from torch import Tensor, nn

from ham10000.errors import ArgumentError

__all__ = ["attention_maps", "feature_size", "gaussian_map", "grad_cam_maps", "random_maps"]


@torch.inference_mode()
def attention_maps(model: Callable[..., tuple[Tensor, Tensor]], images: Tensor) -> Tensor:
    """Return the sum of a model's attention maps.

    Args:
        model: gives (scores, maps) for `return_maps=True`, maps (N, K, h, w).
        images: (N, 3, H, W), normalized.

    Returns:
        (N, h, w). Each sums to K.
    """
    _, maps = model(images, return_maps=True)
    return maps.sum(dim=1).float().cpu()


def grad_cam_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return Grad-CAM for one class an image (Selvaraju et al., ICCV 2017), of grad-cam.

    It is taken at the last feature map, which is what attention looks at where there is some, so
    that both have the same resolution.

    Args:
        model: holds a `softattn.SpatialBackbone`; left as it was.
        images: (N, 3, H, W), normalized.
        classes: (N,), the class that each map is for.

    Returns:
        (N, H, W), from 0 to 1.

    Raises:
        ArgumentError: the model holds no `SpatialBackbone`.
    """
    target = _feature_map(model, "computing Grad-CAM")
    # grad-cam wants gradients, which a frozen or half-frozen model doesn't give by itself.
    images = images.detach().clone().requires_grad_()
    with torch.enable_grad(), GradCAM(model, [target]) as method:
        found = method(images, [ClassifierOutputTarget(int(label)) for label in classes])
    model.zero_grad(set_to_none=True)
    return torch.from_numpy(found).float()


@torch.inference_mode()
def feature_size(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Return how many positions the feature map has that attention and Grad-CAM look at.

    Args:
        model: holds a `softattn.SpatialBackbone`.
        image: (3, H, W).

    Raises:
        ArgumentError: the model holds no `SpatialBackbone`.
    """
    features: Tensor = _feature_map(model, "finding the feature map")(image[None])
    return features.shape[2], features.shape[3]


def gaussian_map(size: tuple[int, int], sigma: float = 0.25) -> Tensor:
    """Return a map that always looks at the middle: lesions are centred, so it is hard to beat.

    Example:
        >>> from ham10000.evaluation.attribution import gaussian_map
        >>> round(gaussian_map((3, 3))[1, 1].item(), 2)
        0.23

    Args:
        size: H and W.
        sigma: of the Gaussian, as a part of each side.

    Returns:
        (H, W), with a sum of 1.
    """
    down, across = (
        torch.exp(-0.5 * (((torch.arange(n) + 0.5) / n - 0.5) / sigma) ** 2) for n in size
    )
    map_ = torch.outer(down, across)
    return map_ / map_.sum()


def random_maps(count: int, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Return maps of independent uniform noise, which look nowhere in particular.

    Example:
        >>> import numpy as np
        >>> from ham10000.evaluation.attribution import random_maps
        >>> random_maps(2, (7, 7), np.random.default_rng(0)).shape
        torch.Size([2, 7, 7])

    Args:
        count: N.
        size: h and w, the resolution of what they are compared with.
        rng: of the noise.

    Returns:
        (N, h, w), from 0 to 1.
    """
    return torch.from_numpy(rng.random((count, *size)))


def _feature_map(model: nn.Module, doing: str) -> SpatialBackbone:
    found = next((m for m in model.modules() if isinstance(m, SpatialBackbone)), None)
    if found is None:
        raise ArgumentError(
            f"{doing}: {type(model).__name__} holds no softattn.SpatialBackbone, whose feature map "
            "it would be of. Build the model with softattn.wrap_backbone."
        )
    return found
