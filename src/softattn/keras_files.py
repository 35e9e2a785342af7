"""Find the authors' layer in a Keras file, with h5py alone: no TensorFlow, no pickle."""

import os
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from softattn.errors import WeightsError, listed, missing_extra

__all__ = ["Array", "find_layer", "open_arrays"]

_DOING = "loading the authors' weights"
_WEIGHTS_IN_ARCHIVE = "model.weights.h5"  # Keras 3's name for it inside a .keras file


class Array(Protocol):
    """What a NumPy array, an h5py data set and a tensor have in common."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The size of each axis."""

    def __getitem__(self, key: Any) -> Any:
        """Read a part."""


@contextmanager
def open_arrays(source: str | os.PathLike[str]) -> Iterator[Mapping[str, Array]]:
    """Open a Keras file, whatever its kind, and yield its arrays by name; they are read on use."""
    try:
        import h5py
    except ImportError:
        raise missing_extra("reading a Keras file", "h5py", "keras") from None
    path = Path(source)
    if not path.is_file():
        what = "a folder" if path.is_dir() else "no such file"
        raise WeightsError(
            f"{_DOING}: {path} is {what}. A file is needed: Keras 2 .h5 or .hdf5, "
            "Keras 3 .weights.h5, or .keras."
        )
    with ExitStack() as stack:
        try:
            content = _weights_in_archive(path) if zipfile.is_zipfile(path) else path
            file = stack.enter_context(h5py.File(content, "r"))
            arrays: dict[str, Array] = {}

            def keep(name: str, item: object) -> None:
                if isinstance(item, h5py.Dataset):
                    arrays[name] = item

            file.visititems(keep)
        except (OSError, RuntimeError, zipfile.BadZipFile) as error:
            raise WeightsError(
                f"{_DOING}: {path} is neither an HDF5 file nor a .keras archive, or it is "
                f"damaged ({error}). Keras writes these with model.save_weights(...) and "
                "model.save(...)."
            ) from error
        yield arrays


def _weights_in_archive(path: Path) -> BytesIO:
    with zipfile.ZipFile(path) as archive:
        if _WEIGHTS_IN_ARCHIVE not in archive.namelist():
            raise WeightsError(
                f"{_DOING}: the archive {path} holds no {_WEIGHTS_IN_ARCHIVE}, so it isn't a "
                f".keras file. It holds: {listed(archive.namelist())}."
            )
        return BytesIO(archive.read(_WEIGHTS_IN_ARCHIVE))


def find_layer(
    arrays: Mapping[str, Array], where: str, in_channels: int, num_maps: int, layer: str | None
) -> tuple[Tensor, Tensor]:
    """Return the kernel (C, 3, 3, 1, K) and the bias (K,) of the one layer that fits."""
    shape = (in_channels, 3, 3, 1, num_maps)
    # An optimizer keeps moments of the same shape as the weights.
    arrays = {name: a for name, a in arrays.items() if not name.startswith("optimizer")}
    if layer is not None:
        arrays = _of_layer(arrays, where, layer)
    kernels = [name for name, array in arrays.items() if tuple(array.shape) == shape]
    kernels = [name for name in kernels if "kernel_conv3d" in name] or kernels
    if not kernels:
        raise WeightsError(_nothing_fits(arrays, where, shape))
    if len(kernels) > 1:
        raise WeightsError(
            f"{_DOING}: {where} has {len(kernels)} layers with a kernel of shape {shape}: "
            f"{listed(kernels)}. Say which with layer=, for example "
            f"layer={_layer_names(kernels[0])[-1]!r}."
        )
    bias = _bias_beside(arrays, kernels[0], num_maps)
    if bias is None:
        raise WeightsError(
            f"{_DOING}: {where} has the kernel {kernels[0]!r} but no bias of shape "
            f"({num_maps},) beside it. It has: {listed(_with_shapes(arrays))}."
        )
    return _tensor(arrays[kernels[0]]), _tensor(arrays[bias])


def _of_layer(arrays: Mapping[str, Array], where: str, layer: str) -> Mapping[str, Array]:
    chosen = {name: array for name, array in arrays.items() if layer in _layer_names(name)}
    if not chosen:
        layers = dict.fromkeys(part for name in arrays for part in _layer_names(name)[-1:])
        raise WeightsError(
            f"{_DOING}: {where} has no layer named {layer!r}. It has: {listed(layers)}."
        )
    return chosen


def _layer_names(array_name: str) -> list[str]:
    # Keras 2: model_weights/soft_attention/soft_attention/kernel_conv3d:0;
    # Keras 3: layers/soft_attention/vars/0.
    parts = array_name.split("/")[:-1]
    return [part for part in parts if part not in ("layers", "vars", "model_weights")] or [""]


def _bias_beside(arrays: Mapping[str, Array], kernel: str, num_maps: int) -> str | None:
    group = kernel.rpartition("/")[0]
    beside = [
        name
        for name, array in arrays.items()
        if name.rpartition("/")[0] == group and tuple(array.shape) == (num_maps,)
    ]
    named = [name for name in beside if "bias_conv3d" in name]
    return next(iter(named or beside), None)


def _nothing_fits(arrays: Mapping[str, Array], where: str, shape: tuple[int, ...]) -> str:
    message = (
        f"{_DOING}: {where} has no kernel of shape {shape}, which in_channels={shape[0]} and "
        f"num_maps={shape[-1]} need."
    )
    others = {
        name: array
        for name, array in arrays.items()
        if "kernel_conv3d" in name
        or (len(array.shape) == 5 and tuple(array.shape[1:4]) == (3, 3, 1))
    }
    if others:
        found = next(iter(others.values())).shape
        return (
            f"{message} It has {listed(_with_shapes(others))}: "
            f"build the module with in_channels={found[0]}, num_maps={found[-1]}."
        )
    return f"{message} It has: {listed(_with_shapes(arrays))}."


def _with_shapes(arrays: Mapping[str, Array]) -> list[str]:
    return [f"{name} {tuple(array.shape)}" for name, array in arrays.items()]


def _tensor(array: Array) -> Tensor:
    return array if isinstance(array, Tensor) else torch.from_numpy(array[...])
