"""Description of a data set: its classes, tables, folders and published counts.

The other modules read what differs between data sets from a `DatasetInfo`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import yaml

from ham10000.data.constants import TABLE_COLUMNS
from ham10000.errors import DataError, closest

__all__ = [
    "DatasetInfo",
    "TableFormat",
    "read_description",
]


@dataclass(frozen=True)
class TableFormat:
    """Files and columns that hold the labels of a data set.

    Attributes:
        files: Names of the files. The images of the data set are those of all of them.
        image: Column with the name of the image.
        label: Column with the class. If it is empty, each class has a column, which is 1 for its
            images and 0 for others.
        labels: Class of each label or, without `label`, of each column. Labels that are not in it
            are classes themselves.
        rest: Class of the images for which all columns of classes are 0. Without it, each image
            has exactly one 1.
        columns: Name in the file of each column of `TABLE_COLUMNS` that is called otherwise.
        details: Name of a further file with columns of each image, if there is one.
        required: Columns that must exist besides those of image and class: in `details` or, without
            it, in the files.
        own_lesions: Whether an image of unknown lesion is taken for a lesion of its own. Otherwise
            it is refused.
        splits: Published split of the images of each file.
        split: Column with the published split.
        advice: Sentence on how to get `details`, if not as the other files.
    """

    files: tuple[str, ...]
    image: str = "image_id"
    label: str = "dx"
    labels: Mapping[str, str] = field(default_factory=dict)
    rest: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    details: str = ""
    required: tuple[str, ...] = ()
    own_lesions: bool = False
    splits: tuple[str, ...] = ()
    split: str = ""
    advice: str = ""


@dataclass(frozen=True)
class DatasetInfo:
    """Properties of a data set: classes, tables, folders and published counts.

    Example:
        >>> from ham10000.data import HAM10000_INFO
        >>> HAM10000_INFO.classes[:2], HAM10000_INFO.class_names["df"], HAM10000_INFO.positive
        (('akiec', 'bcc'), 'dermatofibroma', None)

    Attributes:
        name: Name in recipes and commands.
        title: Name in texts.
        class_names: Display name by class, in the order of the targets. Of two classes, the second
            is the positive one.
        tables: Formats of the table. The first one whose files are there is used.
        image_folders: Published names of the folders with images, in any case.
        mask_folders: The same for folders with masks.
        ignored: Regular expression of the names of files, without extension, among the images
            that are not images of the data set.
        image_ending: Ending that names of images may have in the table or of their files only.
        sources: Names of the sources that it can be downloaded from, the default one first.
        where_to_get: End of a sentence that starts with "Get them".
        licence: Licence and citation.
        num_images: Published number of images.
        num_lesions: Published number of lesions.
        class_counts: Published number of images of each class.
    """

    name: str
    title: str
    class_names: Mapping[str, str]
    tables: tuple[TableFormat, ...]
    image_folders: tuple[str, ...] = ()
    mask_folders: tuple[str, ...] = ()
    ignored: str = ""
    image_ending: str = ""
    sources: tuple[str, ...] = ()
    where_to_get: str = "from where you have the others"
    licence: str = "The licence depends on that of the images."
    num_images: int | None = None
    num_lesions: int | None = None
    class_counts: Mapping[str, int] = field(default_factory=dict)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The classes. A target is an index of this tuple."""
        return tuple(self.class_names)

    @property
    def positive(self) -> str | None:
        """The positive class of a binary task; `None` with more than two classes."""
        return self.classes[1] if len(self.classes) == 2 else None

    @property
    def has_published_split(self) -> bool:
        """Whether the tables say which images train, validate and test."""
        return any(table.splits or table.split for table in self.tables)

    def advice(self, part: Literal["images", "masks", "metadata"]) -> str:
        """Return a sentence on how to get a part of the data set, without a full stop."""
        what = "it" if part == "metadata" else "them"
        return f"Get {what} {self.where_to_get.format(part=part)}"

    def is_ignored(self, name: str) -> bool:
        """Return whether a file of this name, without extension, is to be ignored."""
        return bool(self.ignored) and re.fullmatch(self.ignored, name) is not None


def read_description(path: Path) -> DatasetInfo:
    r"""Read the description of a data set from a YAML file.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from ham10000.data import read_description
        >>> lines = [
        ...     "name: clinic",
        ...     "table: labels.csv",
        ...     "columns: {image: file, label: diagnosis, lesion: lesion}",
        ...     "classes: {nv: melanocytic nevus, mel: melanoma}",
        ...     "images: photographs",
        ... ]
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "clinic.yaml"
        ...     _ = path.write_text("\n".join(lines))
        ...     info = read_description(path)
        >>> info.name, info.classes, info.positive
        ('clinic', ('nv', 'mel'), 'mel')

    Args:
        path: The file. It has `name`, `table` (file name of a CSV table) and `classes` (display
            name by class; of two classes, the second is the positive one), and can have `columns`
            (names of the columns image, label, lesion, split, age, sex, localization and dx_type
            in the table), `labels` (class by label, where they differ), `images` and `masks`
            (names of their folders) and `licence`.

    Raises:
        DataError: The file cannot be read or is not such a description.
    """
    doing = f"reading the data set {path}"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{doing}: it is not valid YAML. {reason}") from error
    if not isinstance(content, dict):
        raise DataError(f"{doing}: expected fields, found {type(content).__name__}.")
    for name in content:
        if name not in _FIELDS:
            raise DataError(f"{doing}: there is no field {name!r}. {closest(str(name), _FIELDS)}")
    for name, kind in _FIELDS.items():
        value = content.get(name, kind() if name not in ("name", "table", "classes") else None)
        texts = [*value, *value.values()] if isinstance(value, dict) else [value]
        if not isinstance(value, kind) or not all(isinstance(text, str) for text in texts):
            expected = "text" if kind is str else "a mapping of names to texts"
            raise DataError(f"{doing}: {name} must be {expected}, found {value!r}.")
    columns = content.get("columns", {})
    _check_description(content, columns, doing)
    own = {name: columns[key] for key, name in _COLUMNS.items() if key in columns}
    return DatasetInfo(
        name=content["name"],
        title=content["name"],
        class_names=content["classes"],
        tables=(
            TableFormat(
                files=(content["table"],),
                image=columns.get("image", "image_id"),
                label=columns.get("label", "dx"),
                labels=content.get("labels", {}),
                columns=own,
                required=tuple(own.values()),
                own_lesions=True,
                split=columns.get("split", ""),
            ),
        ),
        image_folders=tuple(filter(None, [content.get("images")])),
        mask_folders=tuple(filter(None, [content.get("masks")])),
        licence=content.get("licence", DatasetInfo.licence),
    )


_FIELDS = {
    "name": str,
    "table": str,
    "columns": dict,
    "classes": dict,
    "labels": dict,
    "images": str,
    "masks": str,
    "licence": str,
}
_COLUMNS = {
    "lesion": "lesion_id",
    "dx_type": "dx_type",
    "age": "age",
    "sex": "sex",
    "localization": "localization",
}


def _check_description(content: Mapping[str, Any], columns: Mapping[str, str], doing: str) -> None:
    known = ("image", "label", "split", *_COLUMNS)
    for name in columns:
        if name not in known:
            raise DataError(
                f"{doing}: columns has the unknown key {name!r}. {closest(name, known)}"
            )
    if re.fullmatch(r"[\w-]+", content["name"]) is None:
        raise DataError(
            f"{doing}: name must be of letters, digits, - and _, found {content['name']!r}."
        )
    classes = list(content["classes"])
    wrong = [name for name in classes if re.fullmatch(r"[a-z0-9_]+", name) is None]
    wrong += [name for name in classes if name in (*TABLE_COLUMNS, "split")]
    if wrong or len(classes) < 2:
        raise DataError(
            f"{doing}: classes must be two or more names of lower-case letters, digits and _ that "
            f"are not columns of HAM10000's table; found {', '.join(wrong or classes)}."
        )
    for label, name in content.get("labels", {}).items():
        if name not in classes:
            raise DataError(
                f"{doing}: labels has the class {name!r} for {label!r}. {closest(name, classes)}"
            )
