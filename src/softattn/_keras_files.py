"""Read the authors' layer from Keras files with h5py alone: no TensorFlow, no pickle."""

import json
import lzma
import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from softattn._validation import listed, missing_extra
from softattn.errors import ArgumentTypeError, WeightsError

_DOING = "loading the authors' weights"
_WEIGHTS_IN_ARCHIVE = "model.weights.h5"
_CONFIG_IN_ARCHIVE = "config.json"

# What zipfile and h5py raise for damaged files. h5py has KeyError for objects that it can't open.
_DAMAGE = (
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    lzma.LZMAError,
    zipfile.BadZipFile,
    zlib.error,
)


class Entry(NamedTuple):
    """One array of a file or mapping."""

    path: str  # as in the file
    layers: tuple[str, ...]  # names of the layers that contain it, outermost first
    array: Any  # has a shape, and NumPy can read it

    @property
    def group(self) -> str:
        """Path of the group of its layer."""
        return self.path.rpartition("/")[0].removesuffix("/vars")

    @property
    def described(self) -> str:
        """Path and shape, for a message."""
        return f"{self.path} {tuple(self.array.shape)}"


def read_mapping(arrays: Mapping[str, Any]) -> list[Entry]:
    """Return the arrays of a mapping with slashes in its names, as Keras variables have them."""
    for name, array in arrays.items():
        if not isinstance(name, str):
            raise ArgumentTypeError(
                f"{_DOING}: expected arrays by name, found the name {name!r} "
                f"({type(name).__name__})."
            )
        if not hasattr(array, "shape"):
            raise ArgumentTypeError(
                f"{_DOING}: expected arrays by name, found {type(array).__name__} for {name!r}. "
                "Convert it with numpy.asarray."
            )
    return [Entry(name, _layers_of(name, {}), array) for name, array in arrays.items()]


@contextmanager
def open_file(source: str | os.PathLike[str]) -> Iterator[list[Entry]]:
    """Open a Keras file of any kind and yield its arrays, which are read on access."""
    try:
        path = Path(source)
    except TypeError:
        raise ArgumentTypeError(
            f"{_DOING}: expected a path or a mapping of arrays, found {type(source).__name__}. "
            "For a Keras layer, pass {v.path: v for v in layer.weights}."
        ) from None
    try:
        import h5py
    except ImportError:
        raise missing_extra("reading a Keras file", "h5py", "keras") from None
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise WeightsError(
            f"{_DOING}: {path} is {what}. A file is needed: Keras 2 .h5 or .hdf5, "
            "Keras 3 .weights.h5, or .keras."
        )
    with ExitStack() as stack:
        content: Path | BytesIO = path
        names: dict[str, str] = {}  # layer names by group
        arrays: dict[str, Any] = {}

        def visit(name: str | bytes, item: Any) -> None:
            if isinstance(name, bytes):  # as h5py returns names that are not UTF-8
                raise ValueError(f"the name {name!r} is not UTF-8")
            if isinstance(item, h5py.Dataset):
                arrays[name] = item
                item.shape  # noqa: B018 - raises an error if the item is damaged
            elif "name" in item.attrs and name.rpartition("/")[2] == "vars":
                names[name.removesuffix("/vars")] = str(item.attrs["name"])

        try:
            if zipfile.is_zipfile(path):
                content, names = _unpacked(path)
            stack.enter_context(file := h5py.File(content, "r"))
            file.visititems(visit)
        except WeightsError:
            raise
        except _DAMAGE as error:
            raise WeightsError(
                f"{_DOING}: {path} is neither an HDF5 file nor a .keras archive, or it is "
                f"damaged ({error}). Keras writes these with model.save_weights(...) and "
                "model.save(...)."
            ) from error
        yield [Entry(name, _layers_of(name, names), array) for name, array in arrays.items()]


def _unpacked(path: Path) -> tuple[BytesIO, dict[str, str]]:
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
        if _WEIGHTS_IN_ARCHIVE not in members:
            raise WeightsError(
                f"{_DOING}: the archive {path} contains no {_WEIGHTS_IN_ARCHIVE}, so it isn't a "
                f".keras file. It contains: {listed(members)}."
            )
        config = archive.read(_CONFIG_IN_ARCHIVE) if _CONFIG_IN_ARCHIVE in members else b"{}"
        weights = BytesIO(archive.read(_WEIGHTS_IN_ARCHIVE))
    try:
        return weights, dict(_configured(json.loads(config)))
    except (ValueError, TypeError, AttributeError, LookupError):
        return weights, {}  # the names are only needed for layer=


def _configured(model: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    # Early versions of Keras 3 do not store layer names with the weights. Groups are named after
    # classes and numbered in the order of the layers, as in the configuration.
    config = model.get("config")
    layers = config.get("layers") if isinstance(config, dict) else None
    count: Counter[str] = Counter()
    for layer in layers or []:
        kind = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=.)(?=[A-Z][a-z])", "_", layer["class_name"]).lower()
        group = f"{prefix}layers/{kind}" + (f"_{count[kind]}" if count[kind] else "")
        count[kind] += 1
        yield group, layer.get("name") or layer["config"]["name"]
        yield from _configured(layer, f"{group}/")


def _layers_of(path: str, names: Mapping[str, str]) -> tuple[str, ...]:
    """Return the names of the layers that contain an array, outermost first.

    Keras 3 numbers its groups: layers/functional/layers/soft_attention_1/vars/0. The names of the
    layers are stored separately; without them, the path of the group is used as the name. In
    older formats and in mappings, groups are named after layers:
    model_weights/soft_attention/soft_attention/kernel_conv3d:0.
    """
    group = path.rpartition("/")[0]
    if group.rpartition("/")[2] != "vars":
        return tuple(part for part in group.split("/") if part not in ("", "model_weights"))
    parts = group.split("/")[:-1]
    groups = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    return tuple(names[g] for g in groups if g in names) or ("/".join(parts),)


def find_layer(
    entries: Iterable[Entry], where: str, in_channels: int, num_maps: int, layer: str | None
) -> tuple[Tensor, Tensor]:
    """Return the kernel (C, 3, 3, 1, K) and the bias (K,) of the only layer that fits."""
    shape = (in_channels, 3, 3, 1, num_maps)
    # An optimizer keeps moments of the same shape as the weights.
    entries = [e for e in entries if e.path.split("/")[0] not in ("optimizer", "optimizer_weights")]
    if layer is not None:
        entries = _of_layer(entries, where, layer)
    kernels = [entry for entry in entries if tuple(entry.array.shape) == shape]
    kernels = [entry for entry in kernels if "kernel_conv3d" in entry.path] or kernels
    if not kernels:
        raise WeightsError(_nothing_fits(entries, where, shape))
    if len(kernels) > 1:
        name = kernels[0].layers[-1] if kernels[0].layers else ""
        unique = sum(name in kernel.layers for kernel in kernels) == 1
        raise WeightsError(
            f"{_DOING}: {where} has {len(kernels)} layers with a kernel of shape {shape}: "
            f"{listed(_named(kernel) for kernel in kernels)}. Choose one with layer=, for example "
            f"layer={name if unique else kernels[0].group!r}."
        )
    [kernel] = kernels
    beside = [
        entry
        for entry in entries
        if entry.group == kernel.group and tuple(entry.array.shape) == (num_maps,)
    ]
    bias = next((entry for entry in beside if "bias_conv3d" in entry.path), None)
    bias = bias or next(iter(beside), None)
    if bias is None:
        raise WeightsError(
            f"{_DOING}: {where} has the kernel {kernel.path!r} but no bias of shape "
            f"({num_maps},) in its group. It has: {listed(entry.described for entry in entries)}."
        )
    return _tensor(kernel, where), _tensor(bias, where)


def _of_layer(entries: list[Entry], where: str, layer: str) -> list[Entry]:
    chosen = (
        [entry for entry in entries if entry.layers[:1] == (layer,)]
        or [entry for entry in entries if layer in entry.layers]
        or [entry for entry in entries if layer == entry.group]
    )
    if chosen:
        return chosen
    named = [entry for entry in entries if entry.layers]
    hint = ""
    if any("/" in name for entry in named for name in entry.layers):
        hint = (
            " The file stores no names of layers: these are groups, numbered by class in the order "
            "of the model's layers."
        )
    raise WeightsError(
        f"{_DOING}: {where} has no layer named {layer!r}. "
        f"It has: {listed(dict.fromkeys(entry.layers[-1] for entry in named))}.{hint}"
    )


def _named(entry: Entry) -> str:
    own = entry.layers[-1] if entry.layers else entry.group
    return entry.path if own in entry.path else f"{own} ({entry.path})"


def _nothing_fits(entries: list[Entry], where: str, shape: tuple[int, ...]) -> str:
    message = (
        f"{_DOING}: {where} has no kernel of shape {shape}, which in_channels={shape[0]} and "
        f"num_maps={shape[-1]} require."
    )
    others = [
        entry
        for entry in entries
        if "kernel_conv3d" in entry.path or tuple(entry.array.shape[1:4]) == (3, 3, 1)
    ]
    others = [entry for entry in others if len(entry.array.shape) == 5]
    if others:
        found = others[0].array.shape
        return (
            f"{message} It has {listed(entry.described for entry in others)}: "
            f"build the module with in_channels={found[0]}, num_maps={found[-1]}."
        )
    return f"{message} It has: {listed(entry.described for entry in entries)}."


def _tensor(entry: Entry, where: str) -> Tensor:
    if isinstance(entry.array, Tensor):
        array = entry.array.detach()
        dense = array.layout is torch.strided and not array.is_quantized
        if array.is_complex() or array.is_meta or not dense:
            kind = "on the meta device" if array.is_meta else f"of {array.dtype}, {array.layout}"
            raise WeightsError(
                f"{_DOING}: {where} has {entry.path!r}, a tensor {kind}; expected a dense one of "
                "real numbers, with values. Convert it, as with to_dense(), dequantize() or abs()."
            )
        return array
    try:
        values = _numpy(entry.array)
    except _DAMAGE as error:
        raise WeightsError(
            f"{_DOING}: {where} has {entry.path!r}, which cannot be read ({error}). Save the "
            "weights again."
        ) from error
    # HDF5 has no bfloat16: Keras stores its two raw bytes.
    if values.dtype.name == "bfloat16" or (values.dtype.kind == "V" and values.itemsize == 2):
        values = (values.view(np.uint16).astype(np.uint32) << 16).view(np.float32)
    if values.dtype.kind not in "fiub":
        raise WeightsError(
            f"{_DOING}: {where} has {entry.path!r} with the dtype {values.dtype}, expected real "
            "numbers. Convert it to float32 first."
        )
    # torch has neither other byte orders nor long doubles.
    return torch.from_numpy(values.astype(np.float32 if values.itemsize < 8 else np.float64))


def _numpy(array: Any) -> "np.ndarray[Any, np.dtype[Any]]":
    # NumPy converts a Keras variable only if it is on the CPU and does not require a gradient.
    return np.asarray(array.numpy() if hasattr(array, "numpy") else array)
