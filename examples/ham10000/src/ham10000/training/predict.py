"""What a model says of a data set, the same to the last bit on any number of processes.

Batches are cut once for all ranks, and each rank takes some of them. Were each rank's part cut by
itself, the last, short batch would hold other images, and a short batch may be computed by other
kernels, in another order of additions.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from ham10000.data import HAM10000, Augment, Batch, Batches, SequentialShard
from ham10000.errors import ArgumentError, TrainingError
from ham10000.evaluation import Predictions, make_predictions
from ham10000.recipe import Recipe
from ham10000.training.processes import gather

__all__ = ["VIEWS", "predict"]

VIEWS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x,
    lambda x: x.flip(3),
    lambda x: x.flip(2),
    lambda x: x.flip(2, 3),
    lambda x: x.transpose(2, 3),
    lambda x: x.transpose(2, 3).flip(3),
    lambda x: x.transpose(2, 3).flip(2),
    lambda x: x.transpose(2, 3).flip(2, 3),
)
"""The eight ways to look at a square; a lesion has no up."""


@torch.no_grad()
def predict(
    model: nn.Module,
    data: HAM10000,
    recipe: Recipe,
    *,
    split: str,
    device: torch.device | str = "cpu",
    rank: int = 0,
    replicas: int = 1,
    tta: int = 1,
) -> Predictions:
    """Predict every image once.

    Args:
        model: takes what `ham10000.models.build_model` says; it is left in the mode that it was in.
        data: what to predict.
        recipe: the model's, for the size of a batch, normalization and precision.
        split: what the predictions' column split says.
        device: where the model is.
        rank: which process this is.
        replicas: how many there are; each calls this with the same weights.
        tta: over how many views of an image the probabilities are averaged: 1, 2, 4 or 8.

    Returns:
        The predictions of all ranks, on every rank, in the order of the data set.

    Raises:
        ArgumentError: there is no such number of views.
    """
    if tta not in (1, 2, 4, 8):
        raise ArgumentError(f"predicting: tta must be 1, 2, 4 or 8, found {tta}.")
    device = torch.device(device)
    training = model.training
    model.eval()
    try:
        found: dict[str, list[float]] = {}
        for batch in _batches(data, recipe, rank, replicas):
            rows = _probabilities(model, batch, recipe, device, tta)
            names = data.table["image_id"].iloc[batch.positions.tolist()]
            found |= dict(zip(names, rows, strict=True))
    finally:
        model.train(training)
    everywhere: dict[str, list[float]] = {}
    for part in gather(found):
        everywhere |= part
    order = data.table["image_id"]
    lacking = [name for name in order if name not in everywhere]
    if lacking:
        raise TrainingError(f"gathering predictions: no rank has predicted {lacking[0]}.")
    known = data.table[["image_id", "lesion_id", "dx"]].assign(split=split)
    return make_predictions(known, [everywhere[name] for name in order], "predicting")


def _batches(data: HAM10000, recipe: Recipe, rank: int, replicas: int) -> Iterator[Batch]:
    augment = Augment("none", mean=recipe.model.mean, std=recipe.model.std)
    whole = SequentialShard(len(data))
    batches = Batches(data, whole, recipe.training.eval_batch_size, augment)
    # In this process: without augmentation a batch is made in no time, and a process that is forked
    # beside the threads of a run (of its log, of its own workers' queues) may inherit a lock and
    # wait for ever.
    return map(batches.__getitem__, SequentialShard(len(batches), rank, replicas))


def _probabilities(
    model: nn.Module, batch: Batch, recipe: Recipe, device: torch.device, tta: int
) -> list[list[float]]:
    images = batch.images.to(device)
    metadata = batch.metadata.to(device) if batch.metadata is not None else None
    if recipe.training.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    total = torch.zeros((), dtype=torch.float64)
    for view in VIEWS[:tta]:
        with autocast(recipe, device):
            scores = model(view(images)) if metadata is None else model(view(images), metadata)
        total = total + scores.double().softmax(1).cpu()
    rows: list[list[float]] = (total / tta).tolist()
    return rows


def autocast(recipe: Recipe, device: torch.device) -> torch.autocast:
    """Return the context of the recipe's precision."""
    kind = torch.float16 if recipe.training.precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, kind, enabled=recipe.training.precision != "32")
