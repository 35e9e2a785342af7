"""Argument checks, pictures as tensors, and parts of error messages that modules share."""

import difflib
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Rational, Real
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from softattn.errors import ArgumentError, ArgumentTypeError, MissingExtraError, ShapeError

# dtypes in which the equation can be computed, and those that a softmax or a factor may have.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
REALS = (*FLOATS, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.bool)

# Sizes beyond it overflow in torch, which reports this with various exceptions.
_MAX_INT = 2**31 - 1


def check_int(doing: str, name: str, value: object, *, minimum: int = 1) -> int:
    """Return `value` as an int of at least `minimum`, or raise an error that names the argument."""
    expected = f"{doing}: {name} must be a whole number of at least {minimum}, found {value!r}"
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise ArgumentTypeError(f"{expected} ({type(value).__name__}).")
    try:
        number = operator.index(value)
    except TypeError as error:  # of a tensor or an array with several elements
        raise ArgumentTypeError(f"{expected} ({type(value).__name__}).") from error
    if number < minimum:
        raise ArgumentError(f"{expected}.")
    if number > _MAX_INT:
        raise ArgumentError(f"{doing}: {name} must be at most {_MAX_INT}, found {value!r}.")
    return number


def check_finite(doing: str, name: str, value: object) -> float:
    """Return `value` as a float, or raise an error that names the argument."""
    expected = f"{doing}: {name} must be a finite number, found {value!r}"
    if isinstance(value, bool) or not isinstance(value, Real):  # NumPy's numbers too
        raise ArgumentTypeError(f"{expected} ({type(value).__name__}).")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ArgumentError(f"{expected}.")
    return number


def check_non_negative(doing: str, name: str, value: object) -> float:
    """Return `value` as a float of at least 0, or raise an error that names the argument."""
    number = check_finite(doing, name, value)
    if number < 0:
        raise ArgumentError(f"{doing}: {name} must be at least 0, found {value!r}.")
    return number


def check_bool(doing: str, name: str, value: object) -> bool:
    """Return `value` if it is a bool, or raise an error that names the argument."""
    if not isinstance(value, bool):
        raise ArgumentTypeError(
            f"{doing}: {name} must be True or False, found {value!r} ({type(value).__name__})."
        )
    return value


def check_fraction(doing: str, name: str, value: object) -> float:
    """Return `value` as a float between 0 and 1, or raise an error that names the argument."""
    number = check_finite(doing, name, value)
    if not 0 <= number <= 1:
        raise ArgumentError(f"{doing}: {name} must be between 0 and 1, found {value!r}.")
    return number


_SIZES = {1: "", 2: " or (height, width)", 3: " or (depth, height, width)"}


def check_odd_sizes(doing: str, name: str, value: object, count: int) -> tuple[int, ...]:
    """Return a size, or a tuple of `count` sizes, as a tuple of odd numbers of at least 1."""
    is_tuple = isinstance(value, tuple | list)
    sizes = tuple(value) if isinstance(value, tuple | list) else (value,) * count
    if len(sizes) != count:
        raise ArgumentError(f"{doing}: {name} must be one number{_SIZES[count]}, found {value!r}.")
    numbers = tuple(check_int(doing, name, size) for size in sizes)
    if not all(number % 2 for number in numbers):
        below = tuple(number - 1 + number % 2 for number in numbers)
        above = tuple(number + 1 - number % 2 for number in numbers)
        nearest = (below, above) if is_tuple else (below[0], above[0])
        raise ArgumentError(
            f"{doing}: {name} must be odd, since an even kernel has no centre, found {value!r}. "
            f"Nearest: {nearest[0]} or {nearest[1]}."
        )
    return numbers


def parse_input_size(doing: str, value: object) -> tuple[int, ...] | None:
    """Return (H, W) or (C, H, W) from a size of images in one of its forms; `None` for `None`."""
    if value is None:
        return None
    sizes = tuple(value) if isinstance(value, tuple | list) else (value, value)
    if len(sizes) not in (2, 3):
        raise ArgumentError(
            f"{doing}: input_size must be one number, (H, W) or (C, H, W), found {value!r}."
        )
    return tuple(check_int(doing, "input_size", size) for size in sizes)


def check_mapping(doing: str, name: str, value: object) -> None:
    """Raise an error unless a value is a mapping or `None`."""
    if not isinstance(value, Mapping | None):
        found = f"{value!r} ({type(value).__name__})"
        raise ArgumentTypeError(f"{doing}: {name} must be a mapping, found {found}.")


def check_dense(doing: str, dtypes: tuple[torch.dtype, ...], **arguments: object) -> None:
    """Raise an error unless the arguments are dense tensors of one of the dtypes."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise ArgumentTypeError(
                f"{doing}: {name} must be a tensor, found {value!r} ({type(value).__name__})."
            )
        if value.layout is not torch.strided or value.is_nested:
            kind = "a nested one" if value.is_nested else f"one with the layout {value.layout}"
            remedy = "to_padded_tensor(0.0)" if value.is_nested else "to_dense()"
            raise ArgumentTypeError(
                f"{doing}: {name} must be a dense tensor, found {kind}. Call {name}.{remedy}."
            )
        if value.dtype not in dtypes:
            floats = dtypes is FLOATS
            expected = "must hold floating-point numbers" if floats else "must hold real numbers"
            remedy = f"{name}.dequantize()" if value.is_quantized else f"{name}.float()"
            remedy = f"{name}.abs()" if value.is_complex() else remedy
            raise ArgumentTypeError(
                f"{doing}: {name} {expected}, found {value.dtype}. Call {remedy}."
            )


def check_same_device(doing: str, x: Tensor, **others: Tensor) -> None:
    """Raise an error unless the tensors are on the device of x."""
    for name, value in others.items():
        if value.device != x.device:
            raise ArgumentError(
                f"{doing}: x is on {x.device} and {name} on {value.device}. "
                "Move both to one device, a module with module.to(x.device)."
            )


def check_gamma(doing: str, x: Tensor, gamma: object) -> None:
    """Raise an error unless gamma is a number, one in a tensor, or `None`."""
    if isinstance(gamma, int) and abs(gamma) >= 2**63:
        raise ArgumentError(f"{doing}: gamma must be below 2**63, found {gamma}. Pass a float.")
    is_fraction = isinstance(gamma, Rational) and not isinstance(gamma, Integral)
    numbers = Real | torch.SymFloat | torch.SymInt
    if gamma is None or (isinstance(gamma, numbers) and not is_fraction):
        return
    if not isinstance(gamma, Tensor):
        raise ArgumentTypeError(
            f"{doing}: gamma must be a number, a tensor or None, found {gamma!r} "
            f"({type(gamma).__name__})."
        )
    check_dense(doing, REALS, gamma=gamma)
    if gamma.shape not in ((), (1,)):
        raise ShapeError(
            f"{doing}: expected gamma a number or a tensor of shape (1,) or (), found "
            f"{tuple(gamma.shape)}."
        )
    if gamma.ndim:  # torch accepts a scalar on the CPU for tensors on any device
        check_same_device(doing, x, gamma=gamma)


def check_operands(doing: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Raise an error unless the convolution of x accepts the dtypes and devices of its operands."""
    parameters = {"weight": weight} if bias is None else {"weight": weight, "bias": bias}
    check_dense(doing, FLOATS, x=x, **parameters)
    check_same_device(doing, x, **parameters)
    for name, value in parameters.items():
        if value.dtype == x.dtype:
            continue
        # Autocast converts all but float64, and nothing on the meta device.
        convertible = torch.float64 not in (x.dtype, value.dtype) and not x.is_meta
        if convertible and torch.is_autocast_enabled(x.device.type):
            continue
        raise ArgumentTypeError(
            f"{doing}: x has dtype {x.dtype} and {name} {value.dtype}. Convert one of them, a "
            f"module with module.to({x.dtype}), or use autocast."
        )


def picture_pairs(
    doing: str, pictures: Any, maps: Any, *, also_others: bool = False
) -> list[tuple[Tensor, Tensor]]:
    """Return each of one or several images, (3, H, W) from 0 to 1, with its maps (K, h, w).

    With `also_others`, it may also be one volume (3, D, H, W) with its maps (K, d, h, w), or one
    signal (C, L) with its maps (K, l).
    """
    if isinstance(pictures, Image) or getattr(pictures, "ndim", 4) < 4:
        of_maps = 2 if isinstance(pictures, Tensor) else getattr(maps, "ndim", 0)
        if also_others and getattr(pictures, "ndim", 0) == of_maps == 2:
            if isinstance(pictures, np.ndarray):
                raise ShapeError(
                    f"{doing}: an array {pictures.shape} with maps {tuple(maps.shape)} may be an "
                    "image or a signal. Pass maps[None] for an image (H, W) with one map, or a "
                    "tensor for a signal (C, L)."
                )
            return [(_floats(pictures), _maps(doing, maps, 1))]
        pictures, maps = [pictures], [maps]
    if isinstance(pictures, str) or not isinstance(pictures, Tensor | np.ndarray | Sequence):
        raise ArgumentTypeError(f"{doing}: {_EXPECTED_IMAGE}, found {describe(pictures)}.")
    if not isinstance(maps, Tensor | np.ndarray | Sequence):
        raise ArgumentTypeError(f"{doing}: {_EXPECTED_MAPS}, found {describe(maps)}.")
    if also_others and _is_volume(doing, pictures, maps):
        return [(_from_0_to_1(doing, pictures).expand(3, -1, -1, -1), _maps(doing, maps, 3))]
    if any(getattr(each, "ndim", 1) == 0 for each in (pictures, maps)):
        raise ShapeError(f"{doing}: {_EXPECTED_MAPS}, found a tensor without dimensions.")
    if len(pictures) != len(maps) or not len(pictures):
        raise ShapeError(f"{doing}: found {len(pictures)} images and the maps of {len(maps)}.")
    return [
        (_image(doing, picture), _maps(doing, each, 2))
        for picture, each in zip(pictures, maps, strict=True)
    ]


def _is_volume(doing: str, picture: Any, maps: Any) -> bool:
    shape, of_maps = tuple(getattr(picture, "shape", ())), tuple(getattr(maps, "shape", ()))
    if min(len(shape), len(of_maps)) < 4:
        return False
    # Arrays may have their channels last.
    channels = {shape[1], shape[-1] if isinstance(picture, np.ndarray) else 0}
    if len(shape) == 4 and shape[0] == of_maps[0] and channels & {1, 3}:
        return False  # images
    if len(shape) != 4 or shape[0] not in (1, 3):
        raise ShapeError(
            f"{doing}: expected a volume (3, D, H, W) or (1, D, H, W), or images (B, 3, H, W) with "
            f"maps (B, K, h, w), found {shape} with maps {of_maps}."
        )
    return True


_EXPECTED_IMAGE = "expected a PIL image, a tensor or an array, or a list of them"
_EXPECTED_MAPS = "expected maps as a tensor or an array"
_ROUNDING = 0.01  # of an image in 16 bits whose normalization was undone


def _image(doing: str, image: Any) -> Tensor:
    if isinstance(image, Image):
        # Gray images of more than 8 bits are checked like arrays.
        image = np.array(image if image.mode[0] in "IF" else image.convert("RGB"))
    values = _from_0_to_1(doing, image)
    if isinstance(image, np.ndarray) and values.ndim == 2:
        values = values[None]
    elif isinstance(image, np.ndarray) and values.ndim == 3 and values.shape[2] in (1, 3):
        values = values.permute(2, 0, 1)
    if values.ndim != 3 or values.shape[0] not in (1, 3):
        raise ShapeError(
            f"{doing}: expected an image (3, H, W), or an array (H, W, 3), "
            f"found {tuple(image.shape)}."
        )
    return values.expand(3, -1, -1)


def _from_0_to_1(doing: str, image: Any) -> Tensor:
    if not isinstance(image, Tensor | np.ndarray):
        raise ArgumentTypeError(f"{doing}: {_EXPECTED_IMAGE}, found {describe(image)}.")
    kind = str(image.dtype).removeprefix("torch.")
    if kind != "uint8" and "float" not in kind:
        raise ArgumentTypeError(
            f"{doing}: expected an image of uint8, or of floats from 0 to 1, found {kind}."
        )
    values = _floats(image)
    if not values.numel():
        raise ShapeError(f"{doing}: found an empty image, {tuple(image.shape)}.")
    if kind == "uint8":
        return values / 255
    low, high = values.min().item(), values.max().item()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):  # false for NaN
        remedy = "Pass image / 255" if low >= 0 else "Pass a normalized image as image * std + mean"
        raise ArgumentError(
            f"{doing}: expected an image of uint8, or of floats from 0 to 1, found floats from "
            f"{low:.3g} to {high:.3g}. {'Check the image' if math.isnan(low) else remedy}."
        )
    return values.clamp(0, 1)


def _maps(doing: str, maps: Any, num_dims: int) -> Tensor:
    """Return maps with the given number of spatial dimensions; of images also from one map."""
    if not isinstance(maps, Tensor | np.ndarray):
        raise ArgumentTypeError(f"{doing}: {_EXPECTED_MAPS}, found {describe(maps)}.")
    values = _floats(maps)
    values = values[None] if values.ndim == num_dims == 2 else values
    if values.ndim != num_dims + 1 or not values.numel():
        expected = {1: "(K, l)", 2: "(K, h, w)", 3: "(K, d, h, w)"}[num_dims]
        raise ShapeError(
            f"{doing}: expected the maps of one image, {expected}, "
            f"found {tuple(maps.shape)}. From a batch take maps[i]."
        )
    low, high = values.min().item(), values.max().item()
    if not (low >= 0 and math.isfinite(high)):
        raise ArgumentError(
            f"{doing}: expected finite attention that is not negative, found {low:.3g} to "
            f"{high:.3g}. Pass maps after their softmax."
        )
    return values


def _floats(values: Tensor | np.ndarray) -> Tensor:
    if isinstance(values, np.ndarray):  # a copy, since torch reads no negative strides
        return torch.from_numpy(np.array(values, np.float32, order="C"))
    return values.detach().float().cpu()


def parameter_factory(doing: str, device: object, dtype: object) -> Callable[..., nn.Parameter]:
    """Return a function from sizes to an uninitialized parameter of this device and dtype."""
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise ArgumentTypeError(
            f"{doing}: dtype must be a torch.dtype, such as torch.float32, found {dtype!r} "
            f"({type(dtype).__name__})."
        )
    if dtype is not None and not dtype.is_floating_point:
        raise ArgumentError(
            f"{doing}: dtype must be a floating-point dtype, such as torch.float32, found {dtype}."
        )
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    try:
        torch.empty(0, **options)
    except Exception as error:  # which one depends on the backend
        kind = ArgumentTypeError if isinstance(error, TypeError) else ArgumentError
        raise kind(
            f"{doing}: device must be one that torch can use here, such as 'cpu' or 'meta', found "
            f"{device!r}. torch says: {str(error).partition(chr(10))[0]}"
        ) from error
    return lambda *sizes: nn.Parameter(torch.empty(sizes, **options))


def missing_extra(doing: str, package: str, extra: str) -> MissingExtraError:
    """Return the error for a missing optional package, with the command that installs it."""
    return MissingExtraError(
        f"{doing} needs {package}, which is not installed. "
        f"Install it with: pip install 'softattn[{extra}]'"
    )


def closest(name: str, options: Iterable[str], count: int = 3) -> str:
    """Return the options closest to an unknown name, as the last sentence of a message.

    >>> from softattn._validation import closest
    >>> closest("layr4", ["layer3", "layer4", "fc"])
    'Closest: layer4, layer3.'
    """
    options = list(options)
    near = difflib.get_close_matches(name, options, n=count, cutoff=0.5)
    if near:
        return f"Closest: {', '.join(near)}."
    if not options:
        return "There are none."
    return f"There are: {listed(options, 10)}."


def listed(names: Iterable[str], max_items: int = 20) -> str:
    """Join names for a message; after `max_items` names, only count the rest.

    >>> from softattn._validation import listed
    >>> listed(["a", "b", "c"], max_items=2)
    'a, b, and 1 more'
    """
    names = list(names)
    more = f", and {len(names) - max_items} more" if len(names) > max_items else ""
    return ", ".join(names[:max_items]) + more if names else "nothing"


def describe(value: object) -> str:
    """Describe a value, typically the output of a module, for a message.

    >>> import torch
    >>> from softattn._validation import describe
    >>> describe([torch.zeros(2, 3), torch.zeros(2, 4)])
    'a list of 2: a tensor (2, 3), a tensor (2, 4)'
    """
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, list | tuple):
        return f"{_kind(value)} of {len(value)}: {', '.join(map(describe, value))}"
    if isinstance(value, dict):
        return f"a dict with {', '.join(map(str, value))}"
    return _kind(value)


def _kind(value: object) -> str:
    name = type(value).__name__
    # U is left out, since most names with it sound like UNet.
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"
