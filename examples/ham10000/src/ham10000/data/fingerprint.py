"""What is left of an image when only its looks count: a perceptual hash and its fine structure.

The hash is the usual one: which of the lowest 8 x 8 frequencies of the image in 32 x 32 greys lie
above their median. Dark round lesions on pale skin have much the same hash, so it only says which
pairs are worth a look. The look is a phase correlation of the images' fine structure: it peaks
where one image is the other shifted, whatever their brightness and contrast.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.fft import dctn
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torchvision.transforms.v2 import functional as F

__all__ = ["Fingerprint", "fingerprint", "hash_distance", "similarity", "spectrum"]

HEIGHT, WIDTH = 72, 96
"""The size in which fine structure is compared; of HAM10000's shape, 4 to 3."""

# Of the frequencies, phase correlation takes those that survive JPEG; in cycles a pixel.
_HIGHEST = 0.24
# Fine structure is what is left without a blur, relative to how much of it is nearby; in pixels.
_BLUR, _NEARBY = 1.1, 4.5
# Greys; below it there is only noise, which must not be blown up.
_NOISE = 1.5


@dataclass(frozen=True)
class Fingerprint:
    """The looks of one image."""

    hash: int
    """64 bits."""
    grey: NDArray[np.uint8]
    """(HEIGHT, WIDTH)."""


def fingerprint(image: Tensor) -> Fingerprint:
    """Take the fingerprint of an RGB image.

    Example:
        >>> import torch
        >>> from ham10000.data.fingerprint import fingerprint, hash_distance
        >>> image = torch.arange(256, dtype=torch.uint8).repeat(3, 192, 1)
        >>> brighter = (image * 0.8 + 40).to(torch.uint8)
        >>> hash_distance(fingerprint(image).hash, fingerprint(brighter).hash) < 8
        True

    Args:
        image: (3, H, W), uint8.
    """
    grey = F.rgb_to_grayscale(image)
    small = F.resize(grey, [32, 32], antialias=True)[0].numpy().astype(np.float32)
    low = dctn(small, norm="ortho")[:8, :8].ravel()
    bits = low > np.median(low[1:])
    bits[0] = False  # the mean brightness says nothing
    number = int.from_bytes(np.packbits(bits).tobytes(), "big")
    return Fingerprint(number, F.resize(grey, [HEIGHT, WIDTH], antialias=True)[0].numpy())


def hash_distance(first: int, second: int) -> int:
    """Return how many of the 64 bits of two hashes differ."""
    return (first ^ second).bit_count()


def spectrum(greys: NDArray[np.uint8]) -> Tensor:
    """Turn greys into what `similarity` compares: the phases of their fine structure.

    Args:
        greys: (N, HEIGHT, WIDTH).

    Returns:
        (N, HEIGHT, WIDTH // 2 + 1), complex.
    """
    values = greys.astype(np.float32)
    fine = values - gaussian_filter(values, (0, _BLUR, _BLUR))
    fine /= np.sqrt(gaussian_filter(fine * fine, (0, _NEARBY, _NEARBY))) + _NOISE
    # The border, where shifted images differ and vignettes are, fades out.
    window = np.outer(np.hanning(HEIGHT + 2)[1:-1], np.hanning(WIDTH + 2)[1:-1]) ** 0.5
    phases = torch.fft.rfft2(torch.from_numpy((fine * window).astype(np.float32)))
    down, across = torch.fft.fftfreq(HEIGHT)[:, None], torch.fft.rfftfreq(WIDTH)
    weight = torch.exp(-(down**2 + across**2) / (2 * _HIGHEST**2))
    phases = phases / phases.abs().clamp_min(1e-9) * weight
    energy = torch.fft.irfft2(phases.abs() ** 2, s=(HEIGHT, WIDTH))[:, :1, :1]
    result: Tensor = phases / energy.clamp_min(1e-12).sqrt()
    return result


def similarity(first: Tensor, second: Tensor) -> NDArray[np.float32]:
    """Compare images pair by pair, whatever the shift between them.

    Args:
        first: (N, ...), from `spectrum`.
        second: (N, ...), from `spectrum`.

    Returns:
        (N,). 1 for the same image, about 0.1 for two that have nothing to do with one another.
    """
    peaks = torch.fft.irfft2(first * second.conj(), s=(HEIGHT, WIDTH))
    result: NDArray[np.float32] = peaks.flatten(1).amax(1).numpy()
    return result
