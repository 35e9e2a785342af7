"""Saliency maps: attention, Grad-CAM, and two baselines that do not depend on the image."""

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
        model: Returns (logits, maps) for `return_maps=True`, with maps (N, K, h, w).
        images: (N, 3, H, W), normalized.

    Returns:
        (N, h, w). Each map sums to K.
    """
    _, maps = model(images, return_maps=True)
    return maps.sum(dim=1).float().cpu()


def grad_cam_maps(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Return the Grad-CAM map of one class for each image (Selvaraju et al., ICCV 2017).

    Grad-CAM uses the last feature map. Attention, where the model has it, is applied to the same
    map, so both have the same resolution.

    Args:
        model: Contains a `softattn.SpatialBackbone`. It is not modified.
        images: (N, 3, H, W), normalized.
        classes: (N,), the class index for each image.

    Returns:
        (N, H, W), from 0 to 1.

    Raises:
        ArgumentError: The model has no `SpatialBackbone`.
    """
    target = _backbone(model, "computing Grad-CAM")
    # The backward pass ends at the feature map, which is all that Grad-CAM needs, and which makes
    # it work with a frozen backbone.
    end = target.register_forward_hook(lambda *call: call[-1].detach().requires_grad_())
    try:
        with torch.enable_grad(), GradCAM(model, [target]) as method:
            found = method(images, [ClassifierOutputTarget(int(label)) for label in classes])
    finally:
        end.remove()
    model.zero_grad(set_to_none=True)
    return torch.from_numpy(found).float()


@torch.inference_mode()
def feature_size(model: nn.Module, image: Tensor) -> tuple[int, int]:
    """Return the height and width of the feature map that attention and Grad-CAM use.

    Args:
        model: Contains a `softattn.SpatialBackbone`.
        image: (3, H, W), normalized.

    Raises:
        ArgumentError: The model has no `SpatialBackbone`.
    """
    features: Tensor = _backbone(model, "finding the feature map")(image[None])
    return features.shape[2], features.shape[3]


def gaussian_map(size: tuple[int, int], sigma: float = 0.25) -> Tensor:
    """Return a Gaussian in the centre: a strong baseline, since lesions are centred.

    Example:
        >>> from ham10000.saliency.methods import gaussian_map
        >>> round(gaussian_map((3, 3))[1, 1].item(), 2)
        0.3

    Args:
        size: H and W.
        sigma: Standard deviation, as a fraction of each side.

    Returns:
        (H, W), with a sum of 1.
    """
    down, across = (
        torch.exp(-0.5 * (((torch.arange(n) + 0.5) / n - 0.5) / sigma) ** 2) for n in size
    )
    map_ = torch.outer(down, across)
    return map_ / map_.sum()


def random_maps(count: int, size: tuple[int, int], rng: np.random.Generator) -> Tensor:
    """Return maps of independent uniform noise.

    Example:
        >>> import numpy as np
        >>> from ham10000.saliency.methods import random_maps
        >>> random_maps(2, (7, 7), np.random.default_rng(0)).shape
        torch.Size([2, 7, 7])

    Args:
        count: Number of maps, N.
        size: h and w, the resolution of the maps that the noise is compared with.
        rng: Random generator.

    Returns:
        (N, h, w), from 0 to 1.
    """
    return torch.from_numpy(rng.random((count, *size)))


def _backbone(model: nn.Module, doing: str) -> SpatialBackbone:
    found = next((m for m in model.modules() if isinstance(m, SpatialBackbone)), None)
    if found is None:
        raise ArgumentError(
            f"{doing}: {type(model).__name__} contains no softattn.SpatialBackbone, so there is no "
            "feature map to use. Build the model with softattn.wrap_backbone."
        )
    return found
