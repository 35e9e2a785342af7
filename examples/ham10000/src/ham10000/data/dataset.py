"""HAM10000 as a PyTorch data set: from image files, or with the same items from a cache."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import tv_tensors

from ham10000.data.cache import check_mapped, open_cache
from ham10000.data.catalog import HAM10000_INFO
from ham10000.data.descriptions import DatasetInfo
from ham10000.data.folder import data_folder, open_folder
from ham10000.data.images import read_image, read_mask, resize
from ham10000.data.metadata import check_metadata, encode_metadata
from ham10000.data.split_file import read_split, split_rows
from ham10000.errors import ArgumentError, MissingDataError

__all__ = ["HAM10000", "CachedHAM10000"]

Item: TypeAlias = tuple[Any, ...]
Transform: TypeAlias = Callable[..., Any]


class HAM10000(Dataset[Item]):
    """HAM10000, or another data set, from its image files, with the conventions of torchvision.

    An item is (image, target): the image as uint8 (3, H, W), the target as an index of `classes`.
    With `metadata` or `masks` it is (image, target, extras), where extras is a dict of tensors.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import HAM10000, synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=20, seed=0, width=60)
        ...     data = HAM10000(Path(folder) / "set", size=32, metadata=["age"])
        ...     image, target, extras = data[0]
        >>> image.shape, data.classes[target], sorted(extras)
        (torch.Size([3, 32, 32]), 'akiec', ['age', 'age_known'])

    Args:
        root: Folder of the data set; `None` for the one that HAM10000_DIR names.
        split: "train", "val" or "test"; `None` for all images.
        transform: Applied to the image; with `masks`, called with image and mask as tv_tensors, and
            returns both.
        target_transform: Applied to the target.
        split_file: The split file; split.csv in `root` by default.
        fold: Fold of the split file, if it has folds.
        metadata: Columns to include in the items: age, sex, localization, dx_type.
        masks: Whether to include the mask in the items, uint8 (1, H, W), 0 or 1.
        size: Resize images to size x size, as in a cache of that size; `None` keeps their size.
        info: Description of the data set.

    Attributes:
        classes: Names of the classes.
        class_to_idx: Target by class.

    Raises:
        MissingDataError: The data set, the split file or an image does not exist.
        DataError: The table can't be used, or no value of a metadata column is understood.
        SplitError: The split file can't be used, or has no such split or fold.
    """

    classes = HAM10000_INFO.classes
    weights: Tensor | None = None
    """Weight of each image in the training loss, (N,), float32; `None` for equal weights."""

    def __init__(
        self,
        root: Path | str | None = None,
        split: str | None = None,
        transform: Transform | None = None,
        target_transform: Callable[[int], Any] | None = None,
        *,
        split_file: Path | str | None = None,
        fold: int | None = None,
        metadata: Sequence[str] = (),
        masks: bool = False,
        size: int | None = None,
        info: DatasetInfo = HAM10000_INFO,
    ) -> None:
        self.root, self.info = data_folder(Path(root) if root is not None else None), info
        self.split, self.fold, self.size = split, fold, size
        self.transform, self.target_transform, self.masks = transform, target_transform, masks
        self._open()
        self.classes = self.info.classes
        self.class_to_idx = {name: index for index, name in enumerate(self.classes)}
        self._choose(split_file, metadata)

    def _open(self) -> None:
        folder = open_folder(self.root, self.info)
        self._paths = folder.paths()
        self._mask_paths = folder.mask_paths() if self.masks else []
        self.table = folder.table

    def _choose(self, split_file: Path | str | None, metadata: Sequence[str]) -> None:
        self.rows = list(range(len(self.table)))
        if self.split is not None:
            path = Path(split_file) if split_file is not None else self.root / "split.csv"
            if not path.exists():
                raise MissingDataError(
                    f"reading {self.split!r} of {self.root}: there is no split file {path}. "
                    f"Make it with: ham10000 split --out {path}"
                )
            self.rows = split_rows(read_split(path, self.table), self.table, self.split, self.fold)
        elif split_file is not None or self.fold is not None:
            raise ArgumentError(
                f"opening {self.root}: a split file or fold was given, but no split. "
                "Pass split='train', 'val' or 'test'."
            )
        check_metadata(self.table, metadata, f"opening {self.root}")
        self.table = self.table.iloc[self.rows].reset_index(drop=True)
        self.targets = [self.class_to_idx[name] for name in self.table["dx"]]
        self.metadata = encode_metadata(self.table, metadata)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Item:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Item]:
        """Return several items. `DataLoader` calls this once per batch."""
        # A negative index counts from the end, as in a list.
        chosen = [range(len(self))[index] for index in indices]
        images = self._images(chosen)
        masks = self._masks(chosen) if self.masks else [None] * len(chosen)
        return [self._item(*parts) for parts in zip(chosen, images, masks, strict=True)]

    def read(self, indices: Sequence[int], out: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the images and targets of a batch, without transforms.

        Args:
            indices: Indices of the items.
            out: Optional memory for the images of a cache, (B, 3, H, W), uint8.

        Returns:
            (B, 3, H, W), uint8, and (B,), int64.
        """
        images = self._images(indices, out)
        images = images if isinstance(images, Tensor) else torch.stack(list(images))
        return images, torch.tensor([self.targets[index] for index in indices])

    def _item(self, index: int, image: Tensor, mask: Tensor | None) -> Item:
        if mask is not None:
            image, mask = tv_tensors.Image(image), tv_tensors.Mask(mask)
        if self.transform is not None and mask is not None:
            image, mask = self.transform(image, mask)
        elif self.transform is not None:
            image = self.transform(image)
        target: Any = self.targets[index]
        if self.target_transform is not None:
            target = self.target_transform(target)
        extras = {name: values[index] for name, values in self.metadata.items()}
        if mask is not None:
            extras["mask"] = mask
        return (image, target, extras) if extras else (image, target)

    def _images(
        self, indices: Sequence[int], out: Tensor | None = None
    ) -> Sequence[Tensor] | Tensor:
        images = [read_image(self._paths[self.rows[index]]) for index in indices]
        return images if self.size is None else [resize(image, self.size) for image in images]

    def _masks(self, indices: Sequence[int]) -> Sequence[Tensor] | Tensor:
        masks = [read_mask(self._mask_paths[self.rows[index]]) for index in indices]
        if self.size is None:
            return masks
        return [resize(mask, self.size, mask=True) for mask in masks]

    def __repr__(self) -> str:
        part = f", split={self.split!r}" if self.split is not None else ""
        return f"{type(self).__name__}({str(self.root)!r}{part}): {len(self)} images"


class CachedHAM10000(HAM10000):
    """HAM10000 from a cache that `prepare` made. The items are the same, and a batch is one read.

    Arguments, attributes and errors are those of `HAM10000`, except that `root` is the folder of
    the cache, and size and description of the data set are those of the cache.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import CachedHAM10000, prepare, synthesize
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     synthesize(Path(folder) / "set", images=20, seed=0, width=60)
        ...     _ = prepare(Path(folder) / "set", Path(folder) / "cache", size=32)
        ...     images, targets = CachedHAM10000(Path(folder) / "cache").read([0, 5, 7])
        >>> images.shape, targets.shape
        (torch.Size([3, 3, 32, 32]), torch.Size([3]))
    """

    def __init__(
        self,
        root: Path | str,
        split: str | None = None,
        transform: Transform | None = None,
        target_transform: Callable[[int], Any] | None = None,
        *,
        split_file: Path | str | None = None,
        fold: int | None = None,
        metadata: Sequence[str] = (),
        masks: bool = False,
    ) -> None:
        super().__init__(
            root,
            split,
            transform,
            target_transform,
            split_file=split_file,
            fold=fold,
            metadata=metadata,
            masks=masks,
        )

    def _open(self) -> None:
        self._map()
        self.table, self.size = self._cache.table, self._cache.size
        self.info = self._cache.info
        if self.masks and self._cache.masks is None:
            raise MissingDataError(
                f"opening the cache {self.root}: it has no masks. "
                f"Rebuild it with: ham10000 prepare --masks --out {self.root}"
            )

    def _map(self) -> None:
        self._cache = open_cache(self.root)

    def _images(self, indices: Sequence[int], out: Tensor | None = None) -> Tensor:
        rows = [self.rows[index] for index in indices]
        check_mapped(self.root, self._cache.images)
        if out is None:
            return torch.from_numpy(self._cache.images[rows])
        # No row is out of range. With "clip" NumPy writes to `out` without an intermediate copy.
        np.take(self._cache.images, rows, axis=0, out=out.numpy(), mode="clip")
        return out

    def _masks(self, indices: Sequence[int]) -> Tensor:
        assert self._cache.masks is not None  # checked in `_open`
        check_mapped(self.root, self._cache.masks)
        return torch.from_numpy(self._cache.masks[[self.rows[index] for index in indices]])

    def __getstate__(self) -> dict[str, Any]:
        # Pickling a mapped array would copy the whole file; a worker maps it again instead.
        return {name: value for name, value in vars(self).items() if name != "_cache"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._map()
