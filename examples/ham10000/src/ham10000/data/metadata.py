"""Age, sex, localization and kind of diagnosis as tensors, with what is missing marked as such."""

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor

from ham10000.data.facts import DX_TYPES, LOCALIZATIONS, SEXES
from ham10000.errors import ArgumentError, closest

__all__ = ["CATEGORIES", "METADATA", "encode_metadata", "feature_names", "metadata_features"]

CATEGORIES = {"sex": SEXES, "localization": LOCALIZATIONS, "dx_type": DX_TYPES}
"""The values of each column; the code of a value is its place here plus 1, and 0 is unknown."""

METADATA = ("age", *CATEGORIES)

_CENTURY = 100.0


def encode_metadata(table: pd.DataFrame, columns: Sequence[str]) -> dict[str, Tensor]:
    """Turn columns of the table into tensors, a value for each row.

    Example:
        >>> import pandas as pd
        >>> from ham10000.data.metadata import encode_metadata
        >>> table = pd.DataFrame({"age": [60.0, None], "sex": ["male", "unknown"]})
        >>> encode_metadata(table, ["age", "sex"])
        {'age': tensor([60.,  0.]), 'age_known': tensor([ True, False]), 'sex': tensor([2, 0])}

    Args:
        table: as `read_table` gives it.
        columns: of `METADATA`.

    Returns:
        For age, `age` in years (float32, 0 where unknown) and `age_known` (bool). For another
        column its codes (int64); values that HAM10000 doesn't have count as unknown.

    Raises:
        ArgumentError: there is no such column.
    """
    encoded: dict[str, Tensor] = {}
    for name in _ordered(columns):
        if name == "age":
            age = torch.tensor(table["age"].to_numpy(dtype="float32", na_value=float("nan")))
            encoded["age"] = torch.nan_to_num(age, nan=0.0)
            encoded["age_known"] = ~age.isnan()
        else:
            codes = {value: code for code, value in enumerate(CATEGORIES[name], start=1)}
            values = [codes.get(value, 0) for value in table[name]]
            encoded[name] = torch.tensor(values, dtype=torch.long)
    return encoded


def feature_names(columns: Sequence[str]) -> tuple[str, ...]:
    """Name the features that `metadata_features` makes of columns, in its order.

    Example:
        >>> from ham10000.data.metadata import feature_names
        >>> feature_names(["age", "sex"])
        ('age', 'age_known', 'sex=female', 'sex=male')

    Args:
        columns: of `METADATA`, in any order.

    Returns:
        As many names as a network's metadata input is wide.

    Raises:
        ArgumentError: there is no such column.
    """
    names: list[str] = []
    for column in _ordered(columns):
        if column == "age":
            names += ["age", "age_known"]
        else:
            names += [f"{column}={value}" for value in CATEGORIES[column]]
    return tuple(names)


def metadata_features(encoded: Mapping[str, Tensor]) -> Tensor:
    """Turn metadata into the numbers that a network takes beside an image.

    Age is in centuries, so that all features are between 0 and 1, with a flag that says whether it
    is known. A category is one-hot, and all zero where it is unknown. Leave `dx_type` out of what a
    network sees: how a diagnosis was made tells much of what it is.

    Example:
        >>> import torch
        >>> from ham10000.data.metadata import metadata_features
        >>> encoded = {"age": torch.tensor([60.0, 0.0]), "age_known": torch.tensor([True, False])}
        >>> metadata_features({**encoded, "sex": torch.tensor([2, 0])})
        tensor([[0.6000, 1.0000, 0.0000, 1.0000],
                [0.0000, 0.0000, 0.0000, 0.0000]])

    Args:
        encoded: from `encode_metadata`, of at least one column.

    Returns:
        (N, M), float32; column by column what `feature_names` names.

    Raises:
        ArgumentError: there is no metadata, or of a column that HAM10000 doesn't have.
    """
    columns = [name for name in encoded if name != "age_known"]
    if not columns:
        raise ArgumentError(
            "making features of metadata: there is none. Open the data set with "
            "metadata=['age', 'sex', 'localization']."
        )
    parts: list[Tensor] = []
    for column in _ordered(columns):
        if column == "age":
            age = torch.stack([encoded["age"] / _CENTURY, encoded["age_known"]], dim=1)
            parts.append(age)
        else:
            one_hot = F.one_hot(encoded[column], 1 + len(CATEGORIES[column]))
            parts.append(one_hot[:, 1:].float())  # without the column of what is unknown
    return torch.cat(parts, dim=1)


def _ordered(columns: Sequence[str]) -> list[str]:
    for name in columns:
        if name not in METADATA:
            raise ArgumentError(
                f"reading metadata: there is no column {name!r}. {closest(name, METADATA)}"
            )
    return [name for name in METADATA if name in columns]
