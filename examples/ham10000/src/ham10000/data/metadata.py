"""Age, sex, localization and kind of diagnosis as tensors, with what is missing marked as such."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from ham10000.data.facts import DX_TYPES, LOCALIZATIONS, SEXES
from ham10000.errors import ArgumentError, closest

__all__ = ["CATEGORIES", "METADATA", "encode_metadata"]

CATEGORIES = {"sex": SEXES, "localization": LOCALIZATIONS, "dx_type": DX_TYPES}
"""The values of each column; the code of a value is its place here plus 1, and 0 is unknown."""

METADATA = ("age", *CATEGORIES)


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
    for name in columns:
        if name == "age":
            age = torch.tensor(table["age"].to_numpy(dtype="float32", na_value=float("nan")))
            encoded["age"] = torch.nan_to_num(age, nan=0.0)
            encoded["age_known"] = ~age.isnan()
        elif name in CATEGORIES:
            codes = {value: code for code, value in enumerate(CATEGORIES[name], start=1)}
            encoded[name] = torch.tensor([codes.get(value, 0) for value in table[name]])
        else:
            raise ArgumentError(
                f"reading metadata: there is no column {name!r}. {closest(name, METADATA)}"
            )
    return encoded
