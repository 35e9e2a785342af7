"""Augmentation of a whole batch: presets of geometry, colours, hairs and rulers; mixup, CutMix."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.transforms import v2

from ham10000.data.augment import transforms
from ham10000.data.samplers import uniform
from ham10000.errors import ArgumentError, closest

__all__ = ["PRESETS", "Augment", "Preset", "cutmix", "draw_hairs", "draw_rulers", "mixup"]

MAX_HAIRS = 6
_HAIR_COLUMNS = 8


@dataclass(frozen=True)
class Preset:
    """The strength of each augmentation."""

    degrees: float = 0.0
    shift: float = 0.0
    """As a share of the image's size."""
    zoom: float = 0.0
    flips: bool = False
    quarters: bool = False
    """Rotations by multiples of 90 degrees."""
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    """As a share of a full turn."""
    random_operation: bool = False
    hairs: float = 0.0
    """Share of the samples that get hairs."""
    rulers: float = 0.0
    policy: Literal["none", "trivial", "rand"] = "none"
    """First, TrivialAugment (arXiv:2103.10158) or RandAugment (arXiv:1909.13719) of torchvision."""

    @property
    def moves(self) -> bool:
        """Whether pixels are moved."""
        return bool(self.degrees or self.shift or self.zoom or self.flips or self.quarters)

    @property
    def colours(self) -> bool:
        """Whether colours are changed by a matrix."""
        return bool(self.brightness or self.contrast or self.saturation or self.hue)

    @property
    def paints(self) -> bool:
        """Whether pixels are changed after the colour matrix."""
        return bool(self.random_operation or self.hairs or self.rulers)


PRESETS = {
    "none": Preset(),
    "flips": Preset(flips=True, quarters=True),
    # The arguments of the authors' ImageDataGenerator.
    "authors": Preset(degrees=180, shift=0.1, zoom=0.1, flips=True),
    "strong": Preset(
        degrees=180,
        shift=0.1,
        zoom=0.2,
        flips=True,
        brightness=0.2,
        contrast=0.2,
        saturation=0.2,
        hue=0.03,
        random_operation=True,
        hairs=0.2,
        rulers=0.1,
    ),
    "trivial": Preset(flips=True, quarters=True, policy="trivial"),
    "rand": Preset(flips=True, quarters=True, policy="rand"),
}

_POLICIES = {
    "trivial": v2.TrivialAugmentWide(interpolation=v2.InterpolationMode.BILINEAR),
    "rand": v2.RandAugment(interpolation=v2.InterpolationMode.BILINEAR),
}


class Augment:
    """Augment and normalize batches of uint8 images.

    The parameters of a sample depend only on the seed, the epoch and its position in the epoch, not
    on its batch, rank or worker.

    Example:
        >>> import torch
        >>> from ham10000.data import Augment
        >>> augment = Augment("strong", seed=0)
        >>> images = torch.randint(0, 256, (8, 3, 64, 64), dtype=torch.uint8)
        >>> whole = augment(images, torch.arange(8), epoch=3)
        >>> half = augment(images[::2], torch.arange(8)[::2], epoch=3)
        >>> whole.dtype, bool((whole[::2] == half).all())
        (torch.float32, True)

    Args:
        preset: "none", "flips", "authors", "strong", "trivial", "rand", or a `Preset`.
        seed: Seed of the run.
        mean: Subtracted from each channel, in [0, 1].
        std: Divisor of each channel. The default gives [-1, 1], as in the authors' code.

    Raises:
        ArgumentError: There is no such preset.
    """

    def __init__(
        self,
        preset: str | Preset = "authors",
        seed: int = 0,
        mean: Sequence[float] = (0.5, 0.5, 0.5),
        std: Sequence[float] = (0.5, 0.5, 0.5),
    ) -> None:
        if isinstance(preset, str):
            if preset not in PRESETS:
                raise ArgumentError(
                    f"choosing an augmentation: there is no preset {preset!r}. "
                    f"{closest(preset, PRESETS)}"
                )
            preset = PRESETS[preset]
        self.preset, self.seed = preset, seed
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)

    def __call__(
        self, images: Tensor, positions: Tensor, epoch: int, out: Tensor | None = None
    ) -> Tensor:
        """Augment a batch on its device.

        Args:
            images: (B, 3, H, W), uint8.
            positions: (B,), position of each sample in the epoch over all ranks.
            epoch: Counted from 0.
            out: Optional memory for the result, (B, 3, H, W), float32, contiguous.

        Returns:
            (B, 3, H, W), float32, normalized.

        Raises:
            ArgumentError: Images or positions have another shape or type.
        """
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3:
            raise ArgumentError(
                "augmenting: expected uint8 images (B, 3, H, W), found "
                f"{images.dtype} {tuple(images.shape)}."
            )
        if len(positions) != len(images):
            raise ArgumentError(
                f"augmenting: expected a position for each of {len(images)} images, "
                f"found {len(positions)}."
            )
        if self.preset.policy != "none":
            images = self._by_policy(images, positions, epoch)
        places, colours = self._parameters(images, positions, epoch)
        mean, std = (values.to(images.device).reshape(3, 1, 1) for values in (self.mean, self.std))
        result = out
        if result is None:
            result = torch.empty(images.shape, dtype=torch.float32, device=images.device)
        for part in _parts(images):
            values = images[part]
            if places is not None and values.device.type == "cpu":
                values = transforms.warp_bytes(values, places[part])
            elif places is not None:
                values = transforms.warp(values.float(), places[part])
            if colours is not None:
                transforms.apply_colours(values.float(), colours[part], out=result[part])
            elif self.preset.paints:
                result[part].copy_(values).mul_(1 / 255)
            else:
                result[part].copy_(values).mul_(1 / (255 * std)).sub_(mean / std)
        if self.preset.paints:
            for part in _parts(images):
                self._paint(result[part].clamp_(0, 1), positions[part], epoch)
                result[part].sub_(mean).div_(std)
        return result

    def _by_policy(self, images: Tensor, positions: Tensor, epoch: int) -> Tensor:
        policy = _POLICIES[self.preset.policy]
        seeds = (uniform(self.seed, epoch, positions, 1, stream=4)[:, 0] * 2**24).long()
        changed = torch.empty_like(images)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from the global generator
            for number, seed in enumerate(seeds.tolist()):
                torch.default_generator.manual_seed(seed)
                changed[number] = policy(images[number])
        return changed

    def _parameters(
        self, images: Tensor, positions: Tensor, epoch: int
    ) -> tuple[Tensor | None, Tensor | None]:
        # The matrices of each sample: of coordinates, and from colours in 0..255 to the result.
        preset, device = self.preset, images.device
        places = None
        if preset.moves:
            draws = uniform(self.seed, epoch, positions, transforms.GEOMETRY_COLUMNS, stream=1)
            places = transforms.warp_matrices(
                draws,
                degrees=preset.degrees,
                shift=preset.shift,
                zoom=preset.zoom,
                flips=preset.flips,
                quarters=preset.quarters,
                aspect=images.shape[3] / images.shape[2],
            ).to(device)
        if not preset.colours:
            return places, None
        draws = uniform(self.seed, epoch, positions, transforms.COLOUR_COLUMNS, stream=2)
        # Every 16th pixel is enough for the mean colour.
        means = images[:, :, ::4, ::4].flatten(2).float().mean(2) / 255
        matrix = transforms.colour_matrices(
            draws.to(device),
            means,
            brightness=preset.brightness,
            contrast=preset.contrast,
            saturation=preset.saturation,
            hue=preset.hue,
        )
        if not preset.paints:  # the normalization is part of the same product
            matrix[:, :, 3] -= self.mean.to(device)
            matrix = matrix / self.std.to(device)[:, None]
        return places, matrix * torch.tensor([1 / 255] * 3 + [1.0], device=device)

    def _paint(self, images: Tensor, positions: Tensor, epoch: int) -> None:
        preset = self.preset
        if preset.random_operation:
            draws = uniform(self.seed, epoch, positions, transforms.OPERATION_COLUMNS, stream=3)
            transforms.random_operation(images, draws.to(images.device))
        if preset.hairs:
            draw_hairs(images, self.seed, epoch, positions, preset.hairs)
        if preset.rulers:
            draw_rulers(images, self.seed, epoch, positions, preset.rulers)


def draw_hairs(images: Tensor, seed: int, epoch: int, positions: Tensor, share: float) -> None:
    """Draw a few dark curved hairs over a share of the images.

    Args:
        images: (B, 3, H, W), in [0, 1], changed in place.
        seed: Seed of the run.
        epoch: Counted from 0.
        positions: (B,), position of each sample in the epoch.
        share: Share of the images that get hairs.
    """
    height, width = images.shape[2:]
    draws = uniform(seed, epoch, positions, 2 + MAX_HAIRS * _HAIR_COLUMNS, stream=11)
    chosen = (draws[:, 0] < share).nonzero()[:, 0]
    if len(chosen) == 0:
        return
    draws = draws[chosen]
    count = 1 + (draws[:, 1] * MAX_HAIRS).long()
    hairs = draws[:, 2:].reshape(-1, MAX_HAIRS, _HAIR_COLUMNS).to(images.device)
    shown = (torch.arange(MAX_HAIRS) < count[:, None]).to(images.device)
    # A hair is a parabola through three points, sampled densely enough to leave no gap.
    along = torch.linspace(0, 1, 2 * max(height, width), device=images.device)
    start, middle, end = hairs[..., 0:2], hairs[..., 2:4] * 0.6 + 0.2, hairs[..., 4:6]
    points = (
        start[..., None] * (1 - along) ** 2
        + middle[..., None] * (2 * along * (1 - along))
        + end[..., None] * along**2
    )
    column = (points[:, :, 0] * (width - 1)).round().long()
    row = (points[:, :, 1] * (height - 1)).round().long()
    dark = (0.5 + 0.4 * hairs[..., 6]) * shown
    thick = (hairs[..., 7] * max(1.0, width / 150)).round().long()
    alpha = images.new_zeros(len(chosen), height * width)
    for step in range(1 + int(thick.max())):
        place = (row * width + (column + step).clamp(max=width - 1)).flatten(1)
        value = (dark * (thick >= step))[..., None].expand_as(row).flatten(1)
        alpha.scatter_reduce_(1, place, value.to(alpha.dtype), "amax")
    images[chosen.to(images.device)] *= 1 - alpha.reshape(-1, 1, height, width)


def draw_rulers(images: Tensor, seed: int, epoch: int, positions: Tensor, share: float) -> None:
    """Draw the scale of a ruler along an edge of a share of the images.

    The arguments are those of `draw_hairs`.
    """
    height, width = images.shape[2:]
    draws = uniform(seed, epoch, positions, 6, stream=12)
    chosen = (draws[:, 0] < share).nonzero()[:, 0]
    if len(chosen) == 0:
        return
    side, pitch, offset, inset, dark = (
        draws[chosen, 1:].to(images.device)[:, :, None, None].unbind(1)
    )
    across = torch.arange(width, device=images.device)[None, None, :]
    down = torch.arange(height, device=images.device)[None, :, None]
    number = (side * 4).long()
    upright = number % 2 == 1
    along = torch.where(upright, down, across)
    depth = torch.where(upright, across, down)
    extent = torch.where(upright, width, height)
    depth = torch.where(number >= 2, extent - 1 - depth, depth)
    depth = depth - (inset * 0.15 * extent).floor()
    spacing = (0.03 + 0.04 * pitch) * width
    place = (along + offset * spacing) / spacing
    tick = place.round()
    on_line = ((place - tick).abs() * spacing) <= max(0.5, width / 400)
    long = torch.where(tick % 5 == 0, 0.08, 0.04) * extent
    inked = on_line & (depth >= 0) & (depth < long.clamp_min(math.ceil(height / 50)))
    images[chosen.to(images.device)] *= 1 - (inked * (0.4 + 0.5 * dark))[:, None].to(images.dtype)


def _parts(images: Tensor) -> Iterator[slice]:
    # On a CPU, a few images at a time stay in the cache from one operation to the next.
    step = 8 if images.device.type == "cpu" else max(1, len(images))
    for start in range(0, len(images), step):
        yield slice(start, start + step)


def mixup(
    images: Tensor, targets: Tensor, positions: Tensor, *, num_classes: int, seed: int, epoch: int
) -> tuple[Tensor, Tensor]:
    """Blend each sample with the next one of its batch.

    The partner is in the same rank's batch, so the result depends on the number of ranks. The share
    of the sample is uniform between 0.5 and 1 (a Beta distribution with alpha 1).

    Example:
        >>> import torch
        >>> from ham10000.data import mixup
        >>> images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> mixed, soft = mixup(images, targets, torch.arange(4), num_classes=7, seed=0, epoch=0)
        >>> mixed.shape, soft.shape, soft.sum(1).tolist()
        (torch.Size([4, 3, 8, 8]), torch.Size([4, 7]), [1.0, 1.0, 1.0, 1.0])

    Args:
        images: (B, 3, H, W), floating point.
        targets: (B,), int64.
        positions: (B,), position of each sample in the epoch.
        num_classes: Number of classes.
        seed: Seed of the run.
        epoch: Counted from 0.

    Returns:
        The images, and the targets as the share of each class, (B, num_classes).

    Raises:
        ArgumentError: The images are not floating point.

    Source: Zhang et al., mixup, arXiv:1710.09412.
    """
    _check_floating(images)
    share = 0.5 + 0.5 * uniform(seed, epoch, positions, 1, stream=21)[:, 0].to(images.device)
    mixed = torch.lerp(images.roll(-1, 0), images, share[:, None, None, None].to(images.dtype))
    return mixed, _soften(targets, share, num_classes)


def cutmix(
    images: Tensor, targets: Tensor, positions: Tensor, *, num_classes: int, seed: int, epoch: int
) -> tuple[Tensor, Tensor]:
    """Replace a random rectangle of each sample by that of the next sample of its batch.

    Arguments, result and errors are those of `mixup`. The rectangle covers at most half the image.

    Example:
        >>> import torch
        >>> from ham10000.data import cutmix
        >>> images, targets = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 3])
        >>> mixed, soft = cutmix(images, targets, torch.arange(4), num_classes=7, seed=0, epoch=0)
        >>> soft.sum(1).tolist()
        [1.0, 1.0, 1.0, 1.0]

    Source: Yun et al., CutMix, arXiv:1905.04899.
    """
    _check_floating(images)
    height, width = images.shape[2:]
    draws = uniform(seed, epoch, positions, 3, stream=22).to(images.device)
    part = (0.5 * draws[:, 0]).sqrt()
    inside = torch.ones(len(images), height, width, dtype=torch.bool, device=images.device)
    for axis, extent in ((1, height), (2, width)):
        length = (part * extent).round()
        start = (draws[:, axis] * (extent - length + 1)).floor()
        place = torch.arange(extent, device=images.device)
        within = (place >= start[:, None]) & (place < (start + length)[:, None])
        inside &= within[:, :, None] if axis == 1 else within[:, None, :]
    mixed = torch.where(inside[:, None], images.roll(-1, 0), images)
    # The share is counted, since the rectangle is rounded to pixels.
    share = 1 - inside.float().mean(dim=(1, 2))
    return mixed, _soften(targets, share, num_classes)


def _check_floating(images: Tensor) -> None:
    if not images.is_floating_point():
        raise ArgumentError(
            f"mixing samples: expected floating point images, found {images.dtype}. "
            "Augment them first."
        )


def _soften(targets: Tensor, share: Tensor, num_classes: int) -> Tensor:
    hard = F.one_hot(targets, num_classes).float()
    return torch.lerp(hard.roll(-1, 0), hard, share[:, None].float())
