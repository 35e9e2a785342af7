"""What `train` prints at its end: what was trained, and how well it predicts."""

from rich.markup import escape
from rich.table import Table

from ham10000.evaluation.metrics import summarize
from ham10000.evaluation.predictions import read_predictions
from ham10000.printing import console
from ham10000.training.folder import RunFolder

__all__ = ["print_run"]

_COLUMNS = {
    "accuracy": "accuracy",
    "recall_macro": "recall",
    "precision_weighted": "precision",
    "f1_macro": "F1",
    "auc_weighted": "AUC",
    "log_loss": "log loss",
}


def print_run(run: RunFolder) -> None:
    """Print a row for each side that a run has predicted, in 80 columns."""
    out = console()
    if not run.done:
        out.print(f"Not finished. Go on with: ham10000 train --resume {run.path}", markup=False)
        return
    table = Table(title=escape(f"{run.path}, best weights"), title_justify="left")
    table.add_column("", no_wrap=True)
    table.add_column("images", justify="right")
    for title in _COLUMNS.values():
        table.add_column(title, justify="right")
    for side in ("val", "test"):
        path = run.predictions(side)
        if not path.exists():
            continue
        predictions = read_predictions(path)
        measured = summarize(predictions.targets, predictions.probabilities)
        cells = [f"{measured[name]:.4f}" for name in _COLUMNS]
        table.add_row(side, f"{len(predictions):,}", *cells)
    out.print(table)
