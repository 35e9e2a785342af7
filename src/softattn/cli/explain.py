"""The command explain: image files of any mode to figures of the attention of a model."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms import v2

from softattn._validation import listed, missing_extra
from softattn.capture import SpatialAttention, capture_maps
from softattn.errors import ArgumentError, WeightsError
from softattn.hub import from_pretrained
from softattn.models import SoftAttentionClassifier, wrap_backbone
from softattn.plot import plot_maps

__all__ = ["Explainer", "Explanation", "explain_files", "load_explainer", "read_image"]

# Where the files of trainers have a state_dict. Averaged weights come first, since those are the
# ones that are evaluated.
_AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")
_STATE_DICT_KEYS = (*_AVERAGED, "state_dict", "model_state_dict", "model", "module")
_ORIGINAL, _HEAD = "backbone.model.", "head.fc.weight"
_MAX_CLASSES = 3


class Explanation(NamedTuple):
    """Explanation of one image: what its figure shows."""

    image: Tensor
    """The preprocessed image, (3, H, W), from 0 to 1."""
    maps: Tensor
    """Its maps, (K, h, w)."""
    classes: str
    """The most probable classes with their probabilities; empty if the head is untrained."""


class Explainer(NamedTuple):
    """A model with its preprocessing and the sources of its weights."""

    model: SoftAttentionClassifier
    """The model, in eval mode."""
    transform: Callable[[Image.Image], Tensor]
    """Preprocessing without the normalization."""
    backbone_from: str
    """Source of the weights of the backbone, for messages."""
    attention_from: str
    """Source of the weights of the attention, for messages."""
    has_classes: bool = False
    """Whether the head is trained."""

    @property
    def name(self) -> str:
        """Name of the backbone with its library, as in `timm:resnet50`."""
        return str((self.model.wrap_arguments or {})["backbone"])

    def explain(self, image: Image.Image) -> Explanation:
        """Apply the model to an image."""
        seen = self.transform(image)
        with torch.inference_mode(), capture_maps(self.model.attention) as maps:
            scores = self.model(_normalized(seen, self.model.pretrained_cfg)[None])[0]
        (attention,) = maps.values()
        values, order = scores.softmax(0).sort(descending=True, stable=True)
        names = self.model.pretrained_cfg.get("label_names") or ()
        known = dict(enumerate(names)) if len(names) == len(scores) else {}
        classes = [
            f"{known.get(index, f'class {index}')} {value:.3f}"
            for index, value in zip(order.tolist(), values.tolist(), strict=True)
        ]
        shown = ", ".join(classes[:_MAX_CLASSES]) if self.has_classes else ""
        return Explanation(seen, attention[0], shown)


def load_explainer(
    name: str,
    *,
    at: str | None = None,
    weights: str | PathLike[str] | None = None,
    pretrained: bool = False,
    num_maps: int = 16,
    seed: int = 0,
) -> Explainer:
    """Build a model with Soft-Attention on a feature map, and load its weights.

    Example:
        >>> from softattn.cli.explain import load_explainer
        >>> load_explainer("torchvision:resnet18").attention_from
        'untrained, seed 0'

    Args:
        name: Name of the model, as for `wrap_backbone`; or a folder of
            `softattn.hub.save_pretrained`, to which the other arguments do not apply.
        at: Name of a module, as for `wrap_backbone`. By default, attention is applied to the last
            spatial feature map.
        weights: File with the state_dict of the original model, or of the wrapped one with its
            attention: from `torch.save`, safetensors, or the checkpoint of a trainer such as
            Lightning. Averaged weights (EMA) are preferred, and prefixes of all keys, as in
            `model.conv1.weight`, are removed.
        pretrained: Load the library's pretrained weights.
        num_maps: K, the number of attention maps.
        seed: Seed of weights that are initialized at random.

    Raises:
        SoftAttnError: As raised by `wrap_backbone` or `softattn.hub.from_pretrained`.
        ArgumentError: The model of the folder computes no attention maps, or an argument does not
            apply to it.
        WeightsError: The file cannot be read or does not match the model.
    """
    if (Path(name) / "config.json").is_file():
        if at is not None or weights is not None or pretrained:
            raise ArgumentError(
                f"explaining with {name}: the folder has the weights and the position of the "
                "attention. Leave out --at, --weights and --pretrained."
            )
        return _from_folder(Path(name))
    untrained = f"untrained, seed {seed}"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = partial(wrap_backbone, name, at=at, pretrained=pretrained, num_maps=num_maps)
        model = build(num_classes=1).eval()
        if weights is None:
            source = "pretrained" if pretrained else untrained
            return Explainer(model, _transform(model), source, untrained)
        state, source = _read_weights(Path(weights), model)
        if _HEAD in state:
            num_classes, inputs = state[_HEAD].shape
            head = "pool" if inputs == model.num_features else "flatten"
            model = build(num_classes=num_classes, head=head).eval()
    return _load(model, state, Path(weights), source, untrained)


def read_image(path: Path) -> Image.Image:
    """Read an image file as 8-bit RGB, rotated by its EXIF orientation.

    - 16-bit grayscale is scaled to 8 bits over its full range, 0 to 65535.
    - Floats must be between 0 and 1. Other ranges are rejected, since no standard defines which
      value is white. 32-bit integers are rejected for the same reason.
    - Transparent images are composited over white.
    - From a file with several images, the first one is read.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> from softattn.cli.explain import read_image
        >>> path = Path(tempfile.mkdtemp()) / "gray.png"
        >>> Image.fromarray(np.full((2, 2), 32896, np.uint16)).save(path)
        >>> read_image(path).getpixel((0, 0))
        (128, 128, 128)

    Raises:
        ArgumentError: The file does not exist, is not an image, or the range of its values is
            unknown.
    """
    try:
        with Image.open(path) as image:
            # Older versions of Pillow read 16-bit PNG as 32-bit integers.
            is_16_bit = image.mode.startswith("I;16") or (image.mode, image.format) == ("I", "PNG")
            upright = ImageOps.exif_transpose(image)
            if is_16_bit:
                return _gray(np.asarray(upright, np.float64) / 65535)
            if image.mode in ("I", "F"):
                return _gray(_checked(path, image.mode, np.asarray(upright, np.float64)))
            return _on_white(upright)
    except FileNotFoundError:
        raise ArgumentError(f"reading an image: {path} does not exist.") from None
    except IsADirectoryError:
        raise ArgumentError(
            f"reading an image: {path} is a directory. Pass the files in it."
        ) from None
    except ArgumentError:
        raise
    except Exception as error:  # damaged files raise whatever the decoders of Pillow raise
        raise ArgumentError(
            f"reading an image: {path} is not an image, or is damaged ({error})."
        ) from error


def _transform(model: SoftAttentionClassifier) -> Callable[[Image.Image], Tensor]:
    size = list(model.backbone.feature_map.input_size[1:])
    cfg = model.pretrained_cfg
    enlarged = [round(side / cfg.get("crop_pct", 1.0)) for side in size]
    interpolation = v2.InterpolationMode(cfg.get("interpolation", "bilinear"))
    # As in torchvision and timm, only the shorter side is resized if the input is square, except
    # for models that were trained on images of changed aspect ratio.
    only_shorter = size[0] == size[1] and cfg.get("crop_mode") != "squash"
    resize = v2.Resize(enlarged[:1] if only_shorter else enlarged, interpolation)
    parts = [resize, v2.CenterCrop(size), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]
    return v2.Compose(parts)  # type: ignore[no-any-return]


def _normalized(image: Tensor, cfg: Mapping[str, Any]) -> Tensor:
    mean, std = cfg.get("mean", (0.485, 0.456, 0.406)), cfg.get("std", (0.229, 0.224, 0.225))
    normalized: Tensor = v2.functional.normalize(image, list(mean), list(std))
    return normalized


def _from_folder(folder: Path) -> Explainer:
    model = from_pretrained(folder)
    if not any(isinstance(module, SpatialAttention) for module in model.attention.modules()):
        raise ArgumentError(
            f"explaining with {folder}: its attention, {type(model.attention).__name__}, computes "
            "no attention maps. Save a model with Soft-Attention."
        )
    has_classes = model.num_classes > 0
    return Explainer(model, _transform(model), str(folder), str(folder), has_classes)


def _load(
    model: SoftAttentionClassifier,
    state: dict[str, Tensor],
    path: Path,
    source: str,
    untrained: str,
) -> Explainer:
    """Load weights with the names of the model; those of the original model have no attention."""
    whole = any(key.startswith("attention.") for key in state)
    own = model.state_dict()
    # A head of another kind or for another size of images is not needed.
    has_classes = _HEAD in state and state[_HEAD].shape == own[_HEAD].shape
    parts = ["backbone.", *["attention."] * whole, *["head."] * has_classes]
    expected = {k: v for k, v in own.items() if k.startswith(tuple(parts))}
    # Files of other libraries can lack these counters, which eval mode does not read.
    needed = {k: v for k, v in expected.items() if not k.endswith("num_batches_tracked")}
    differing = [k for k, v in needed.items() if k not in state or state[k].shape != v.shape]
    if differing:
        raise WeightsError(
            f"loading {path}: {len(differing)} of the {len(needed)} tensors of the model are "
            f"missing in the file or have another shape: {_named(differing)}. The file contains "
            f"{_named(state)}. Check that it belongs to this model."
        )
    model.load_state_dict({k: v for k, v in state.items() if k in expected}, strict=False)
    unused = [key for key in state if key not in expected and not key.startswith("head.")]
    backbone = f"{source} (without {_named(unused)})" if unused else source
    attention = source if whole else untrained
    return Explainer(model, _transform(model), backbone, attention, has_classes)


def _named(keys: Iterable[str]) -> str:
    return listed([key.removeprefix(_ORIGINAL) for key in keys], 3)


def _read_weights(path: Path, model: SoftAttentionClassifier) -> tuple[dict[str, Tensor], str]:
    """Return the weights of a file with the names of the model, and their source."""
    state, place = _read_state(path)
    # torch.compile adds it to the names of the modules that it compiles.
    state = {key.replace("_orig_mod.", ""): value for key, value in state.items()}
    names = {key.removeprefix(_ORIGINAL) for key in model.state_dict() if key.startswith(_ORIGINAL)}
    prefix = _find_prefix(names, state)
    outer = prefix.removesuffix(_ORIGINAL)
    whole = outer != prefix and any(key.startswith(f"{outer}attention.") for key in state)
    before, after = (outer, "") if whole else (prefix, _ORIGINAL)
    own = {f"{after}{k.removeprefix(before)}": v for k, v in state.items() if k.startswith(before)}
    average = place if place in _AVERAGED else outer.rstrip(".") if "ema" in outer else ""
    return own, f"{path.name}, averaged weights in {average}" if average else path.name


def _find_prefix(names: Collection[str], keys: Iterable[str]) -> str:
    """Return the prefix with which most of the names occur among the keys, as `model.` does."""
    found = Counter[str]()
    for key in keys:
        parts = key.split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in names:
                found["".join(f"{part}." for part in parts[:start])] += 1
    # Trainers can save the averaged weights beside those that are trained.
    return max(found, key=lambda prefix: (found[prefix], "ema" in prefix, -len(prefix)), default="")


def _read_state(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the state_dict in a file, and the key of the file under which it is."""
    if not path.is_file():
        raise WeightsError(f"loading weights: {path} is not a file.")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path), ""
        state = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError:
        raise missing_extra("reading a .safetensors file", "safetensors", "hub") from None
    except Exception as error:  # torch and safetensors raise errors of many kinds
        raise WeightsError(
            f"loading {path}: expected a .safetensors file, or a file that torch.save wrote and "
            f"that contains only tensors. It is neither, or is damaged ({error})."
        ) from error
    place, key = "", None
    while isinstance(state, dict) and (
        key := next((key for key in _STATE_DICT_KEYS if isinstance(state.get(key), dict)), None)
    ):
        state, place = state[key], place or key
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise WeightsError(
            f"loading {path}: expected a state_dict, a mapping from names to tensors, found "
            f"{_described(state)}. Save it with torch.save(model.state_dict(), path)."
        )
    return state, place


def _described(state: object) -> str:
    if not isinstance(state, dict):
        return type(state).__name__
    key, value = next((k, v) for k, v in state.items() if not isinstance(v, Tensor))
    return f"one with {type(value).__name__} at {key!r}"


def explain_files(
    images: Sequence[str | PathLike[str]], explainer: Explainer, out: str | PathLike[str]
) -> Iterator[tuple[Path, Explanation]]:
    """Write a figure for each image to `OUT/<name>-attention.png`; yield its path and content.

    All images are read once before the first figure is written.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from softattn.cli.explain import explain_files, load_explainer
        >>> folder = Path(tempfile.mkdtemp())
        >>> Image.new("RGB", (64, 64)).save(folder / "photo.png")
        >>> explainer = load_explainer("torchvision:resnet18")
        >>> [path.name for path, _ in explain_files([folder / "photo.png"], explainer, folder)]
        ['photo-attention.png']

    Args:
        images: Image files.
        explainer: From `load_explainer`.
        out: Folder for the figures, created if needed.

    Raises:
        ArgumentError: An image cannot be read, or two images would get the same figure. Nothing
            is written.
    """
    paths = [Path(image) for image in images]
    targets = [Path(out) / f"{path.stem}-attention.png" for path in paths]
    for path, target in zip(paths, targets, strict=True):
        if targets.count(target) > 1:
            others = [p for p, t in zip(paths, targets, strict=True) if t == target]
            raise ArgumentError(
                f"explaining {path}: the figures of {listed([str(p) for p in others])} would all "
                f"be written to {target}. Write them to separate folders."
            )
        read_image(path)
    Path(out).mkdir(parents=True, exist_ok=True)
    for path, target in zip(paths, targets, strict=True):
        found = explainer.explain(read_image(path))
        title = f"{path.name}; attention: {explainer.attention_from}\n{found.classes}".rstrip()
        plot_maps(found.image, found.maps, title).savefig(target, dpi=120)
        yield target, found


def _gray(values: np.ndarray) -> Image.Image:
    """Return an RGB image of gray values from 0 to 1."""
    return Image.fromarray(np.rint(255 * values).astype(np.uint8)).convert("RGB")


def _checked(path: Path, mode: str, values: np.ndarray) -> np.ndarray:
    """Return values that are known to be from 0 to 1."""
    # A comparison with NaN is false.
    if mode == "F" and values.min() >= 0 and values.max() <= 1:
        return values
    kind = "floats" if mode == "F" else "32-bit integers"
    raise ArgumentError(
        f"reading an image: {path} holds {kind} from {values.min():g} to {values.max():g}, and the "
        "file does not say which value is white. Save it with 8 or 16 bits per channel, or as "
        "floats from 0 to 1."
    )


def _on_white(image: Image.Image) -> Image.Image:
    if "A" not in image.getbands() and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    white = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(white, layer).convert("RGB")
