"""How many parameters the parts of a model have, and the table that says so."""

from collections.abc import Mapping

from rich.table import Table
from torch import nn

from ham10000.models.classifier import LesionClassifier

__all__ = ["count_parameters", "parameter_table"]


def count_parameters(model: LesionClassifier) -> dict[str, int]:
    """Count the trained parameters of each part.

    Example:
        >>> from ham10000.models import build_model, count_parameters
        >>> from ham10000.recipe import ModelRecipe
        >>> count_parameters(build_model(ModelRecipe("ham10000:tiny", attention=True)))
        {'backbone': 7264, 'attention': 4625, 'head': 455}
    """
    return {name: _parameters(part) for name, part in model.parts().items()}


def parameter_table(model: LesionClassifier, authors: Mapping[str, int] | None = None) -> Table:
    """Return the counts of each part as a table, beside those of the authors' model.

    Keras counts the running statistics of norms as parameters, so they stand here too.

    Args:
        model: from `build_model`.
        authors: by part; the recipe's `model.authors_parameters`.
    """
    authors = authors or {}
    rows = [(name, _parameters(part), _statistics(part)) for name, part in model.parts().items()]
    rows.append(("all", sum(row[1] for row in rows), sum(row[2] for row in rows)))
    known = {**authors, "all": sum(authors.values())} if authors else {}
    table = Table("part", title="parameters", title_justify="left")
    for title in ("trained", "statistics", *(["together", "the authors'"] if known else [])):
        table.add_column(title, justify="right")
    for name, trained, statistics in rows:
        cells = [f"{trained:,}", f"{statistics:,}"]
        if known:
            cells += [f"{trained + statistics:,}", f"{known[name]:,}" if name in known else ""]
        table.add_row(name, *cells)
    return table


def _parameters(part: nn.Module) -> int:
    return sum(parameter.numel() for parameter in part.parameters())


def _statistics(part: nn.Module) -> int:
    """Count what norms keep of the data: their running means and variances."""
    return sum(buffer.numel() for buffer in part.buffers() if buffer.ndim)
