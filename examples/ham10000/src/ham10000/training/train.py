"""Train a recipe: the whole run, an epoch and its evaluation, from top to bottom."""

import io
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console

from ham10000.data import check_same_split
from ham10000.errors import (
    DataError,
    Ham10000Error,
    MissingDataError,
    PredictionError,
    TrainingError,
)
from ham10000.evaluation import Predictions, summarize, write_predictions
from ham10000.models import parameter_table
from ham10000.recipe import Recipe
from ham10000.training.checkpoint import final_weights, mark_best, recover_best, restore, save
from ham10000.training.checkpoint_file import read_latest
from ham10000.training.data import open_split, prepare_data, splits_of
from ham10000.training.frozen import train_frozen
from ham10000.training.journal import (
    Journal,
    explain_failures,
    log_to,
    try_write_metrics,
    write_metrics,
)
from ham10000.training.loggers import Loggers, open_loggers, trace_steps
from ham10000.training.predict import predict
from ham10000.training.processes import (
    INTERRUPTED,
    LAUNCHED,
    StopRequest,
    all_gather,
    all_reduce_any,
    broadcast_tensors,
    catch_signals,
    limit_threads,
    local_processes,
    start_fabric,
    tune_allocator,
)
from ham10000.training.reproducibility import describe_environment, set_deterministic
from ham10000.training.run_dir import (
    LAUNCHER_LOCK,
    TRAINER_LOCK,
    RunDir,
    claim_run,
    lock_run,
)
from ham10000.training.session import Setup, build_session, wrap_model
from ham10000.training.state import RunningMetrics, TrainState
from ham10000.training.step import (
    StepTimer,
    describe_last_checkpoint,
    remaining_batches,
    train_step,
)
from ham10000.utils import read_text, write_text

__all__ = ["evaluate", "train", "train_one_epoch"]

_LOG = logging.getLogger(__name__)


def train(recipe: Recipe, out: Path) -> int:
    """Train a recipe into a folder, or resume the run that is in it.

    With `model.frozen` only attention and head are trained, as `train_frozen` describes.

    Every process of a run calls this; torchrun sets their ranks. An interrupted run that is called
    again ends with the same result as one that was not interrupted: bit for bit on one or two
    processes, and up to rounding errors on more.

    Args:
        recipe: The recipe to train.
        out: The folder of the run.

    Returns:
        0; or `INTERRUPTED` if a signal or the recipe's `max_minutes` ended the run early. Then
        calling this again resumes the run from its newest checkpoint.

    Raises:
        Ham10000Error: The recipe cannot be trained; existing checkpoints are kept.
    """
    if recipe.model.frozen:
        train_frozen(recipe, out)
        return 0
    request = StopRequest(recipe.training.max_minutes)
    with ExitStack() as held:
        held.callback(torch.set_num_threads, torch.get_num_threads())
        tuned = []
        if not torch.cuda.is_available():
            tuned = [tune_allocator(), limit_threads(local_processes())]
        set_deterministic(recipe.training.deterministic)
        fabric = start_fabric(recipe.training.precision)
        run, recipe = _lock_and_claim(recipe, out, fabric.global_rank, held)
        cache = prepare_data(run, recipe)
        # Until here a signal ends a process at once, since nothing is lost. A rank that caught it
        # would wait for ranks that it has ended, so ranks catch signals only after all have joined.
        all_gather(None)
        held.enter_context(catch_signals(request))
        with log_to(run.log, shown=fabric.global_rank == 0), explain_failures(recipe, run):
            setup, state = build_session(recipe, run, cache, fabric)
            _describe(setup, state, tuned)
            _resume(setup, state)
            with _journal(setup, state) as journal:
                complete = _train_epochs(setup, state, journal, request)
                if complete:
                    _predict_splits(setup, state, cache)
                    journal.loggers.add_model(run, recipe)
            if not complete:
                _log_stop(setup, state, request)
    if dist.is_initialized():
        dist.destroy_process_group()
    return 0 if complete else INTERRUPTED


def _train_epochs(setup: Setup, state: TrainState, journal: Journal, request: StopRequest) -> bool:
    """Train the remaining epochs; return `False` if a stop was requested before the end."""
    training, counters = setup.recipe.training, state.counters
    while not counters.finished(training.epochs, training.patience):
        timer = StepTimer()
        with journal.epoch(counters, setup.plan.steps):
            complete = train_one_epoch(setup, state, journal, request, timer)
        if complete:
            predictions = evaluate(setup, state)
            _end_epoch(setup, state, journal, predictions, timer)
        save(setup, state)
        if not complete:
            return False
    return True


def train_one_epoch(
    setup: Setup, state: TrainState, journal: Journal, request: StopRequest, timer: StepTimer
) -> bool:
    """Train the remaining steps of an epoch; return `False` if a stop was requested before its end.

    Args:
        setup: The setup of the session.
        state: Its state.
        journal: Records the progress.
        request: A request to stop, checked on all ranks before each step.
        timer: Receives the times of the steps.
    """
    training, plan, counters = setup.recipe.training, setup.plan, state.counters
    wrap_model(setup, state, head_only=counters.epoch < training.head_first_epochs)
    state.model.train()
    setup.loss.set_epoch(counters.epoch)
    saved_at, saved_step = time.monotonic(), counters.step
    batches = remaining_batches(setup, counters)
    with trace_steps(setup, counters) as step_done:
        while counters.step_in_epoch < plan.steps:
            due = counters.step > saved_step and (
                (training.checkpoint_steps or 0)
                and counters.step % (training.checkpoint_steps or 1) == 0
            )
            if training.checkpoint_minutes is not None:
                due = due or time.monotonic() - saved_at >= 60 * training.checkpoint_minutes
            stop, due = all_reduce_any([bool(request), bool(due)], setup.fabric.device)
            if stop:
                return False
            if due:
                save(setup, state)
                saved_at, saved_step = time.monotonic(), counters.step
            images = plan.images(counters.step_in_epoch)
            loss = train_step(setup, state, batches, timer)
            journal.step(loss, images)
            step_done()
    return True


def evaluate(setup: Setup, state: TrainState) -> Predictions:
    """Predict the validation images with the evaluated weights; a collective operation.

    Raises:
        TrainingError: The weights have diverged, so that probabilities are not finite.
    """
    broadcast_tensors(state.model.buffers())
    if state.ema is not None:
        broadcast_tensors(state.ema.module.buffers())
    try:
        return predict(
            state.evaluated_model,
            setup.validation,
            setup.recipe,
            split=setup.validation_split,
            device=setup.fabric.device,
            rank=setup.rank,
            replicas=setup.plan.replicas,
        )
    except PredictionError as error:  # possible although the loss of every step was finite
        raise TrainingError(
            f"evaluating after step {state.counters.step}: the model's outputs are not finite, so "
            f"its weights have diverged. {describe_last_checkpoint(setup.run)}. Lower "
            "optimizer.lr, set optimizer.clip_norm, or use training.precision 32."
        ) from error


def _end_epoch(
    setup: Setup, state: TrainState, journal: Journal, predictions: Predictions, timer: StepTimer
) -> None:
    training, counters = setup.recipe.training, state.counters
    trained = RunningMetrics.sum(all_gather(state.metrics.state_dict())).summarize()
    measured = summarize(predictions.targets, predictions.probabilities, predictions.classes)
    measured = {"loss": measured["log_loss"], **measured}
    counters.epoch += 1
    counters.step_in_epoch = 0
    state.metrics = RunningMetrics()
    value = {"epoch": counters.epoch, **measured}[training.monitor]
    rates: list[float] = [group["lr"] for group in state.optimizer.param_groups]
    state.schedule.step(value)
    if counters.update_best(value, training.mode):
        mark_best(setup, state)
    if training.stop_monitor is None:
        counters.update_patience(value, training.mode, training.min_delta)
    else:
        counters.update_patience(
            measured[training.stop_monitor], training.stop_mode, training.min_delta
        )
    common: dict[str, Any] = {"epoch": counters.epoch, "step": counters.step}
    journal.end_epoch(
        setup,
        state,
        {**common, "split": "train", **trained, "lr": max(rates), **journal.pace()},
        {**common, "split": setup.validation_split, **measured},
        predictions,
        timer,
    )


def _lock_and_claim(
    recipe: Recipe, out: Path, rank: int, locks: ExitStack
) -> tuple[RunDir, Recipe]:
    """Lock and claim the folder on rank 0; other ranks use it only if that succeeds."""
    refusal: Ham10000Error | None = None
    if rank == 0:
        # A launcher itself holds its lock, as long as it can start processes again.
        names = [TRAINER_LOCK] if LAUNCHED in os.environ else [LAUNCHER_LOCK, TRAINER_LOCK]
        try:
            locks.enter_context(lock_run(out, *names))
            claim_run(out, recipe)
        except Ham10000Error as error:
            refusal = error
    refusal = all_gather(refusal)[0]
    if refusal is not None:
        raise refusal
    return claim_run(out, recipe)


def _describe(setup: Setup, state: TrainState, tuned: list[str]) -> None:
    """Log what is trained on what, and write environment.json."""
    fabric, recipe = setup.fabric, setup.recipe
    environment = describe_environment(fabric.device, fabric.world_size)
    if setup.rank == 0:
        text = json.dumps(environment, indent=2) + "\n"
        write_text(setup.run.environment, text)
    _LOG.info(
        "%s: %d train, %d %s, on %d process%s of %s",
        recipe.name,
        len(setup.train_data),
        len(setup.validation),
        setup.validation_split,
        fabric.world_size,
        "es" * (fabric.world_size > 1),
        environment["device"],
    )
    screen = Console(file=io.StringIO(), width=80)
    screen.print(parameter_table(state.model, recipe.model.authors_parameters))
    table: str = screen.file.getvalue()  # type: ignore[attr-defined]
    for line in [*tuned, *table.splitlines()]:
        _LOG.info("%s", line.rstrip())
    if setup.validation_split == "test" and recipe.training.monitor != "epoch":
        _LOG.warning(
            "The split has no validation set: %s of the test set selects the weights, as in the "
            "authors' code, so the test metrics are optimistic",
            recipe.training.monitor,
        )


def _resume(setup: Setup, state: TrainState) -> None:
    """Restore the newest checkpoint if the run has one."""
    content = read_latest(setup.run)
    steps = all_gather(0 if content is None else content["state"]["step"])
    if len(set(steps)) > 1:
        raise TrainingError(
            f"resuming {setup.run.path}: the processes found checkpoints of the steps {steps}. "
            "All machines need the same folder: pass an --out on a shared disk."
        )
    if content is None:
        return
    restore(setup, state, content)
    if not setup.run.done:
        recover_best(setup, state)
    counters = state.counters
    _LOG.info("Resuming from step %d, in epoch %d", counters.step, counters.epoch + 1)
    if setup.rank == 0:
        try_write_metrics(setup.run, counters)


@contextmanager
def _journal(setup: Setup, state: TrainState) -> Iterator[Journal]:
    shown = setup.rank == 0
    loggers = Loggers()
    if shown:
        loggers = open_loggers(setup.recipe, setup.run, state.counters.epoch)
    try:
        yield Journal(loggers, setup.recipe.training.epochs, shown=shown)
    finally:
        loggers.close()


def _log_stop(setup: Setup, state: TrainState, request: StopRequest) -> None:
    """Log why the run stopped early, and whether its last step was saved."""
    run, step = setup.run, state.counters.step
    reason = next(filter(None, all_gather(request.reason)), "a stop was requested")
    resume = f"ham10000 train --resume {run.path}"
    if run.step_checkpoint(step).exists():
        _LOG.info("Stopped and saved, since %s. Continue with: %s", reason, resume)
        return
    newest = next(iter(run.step_checkpoints()), None)
    start = "from the beginning" if newest is None else f"from {newest.name}"
    if setup.rank == 0:
        _LOG.error(
            "Stopped, since %s, but step %d could not be saved. Continue %s with: %s",
            reason,
            step,
            start,
            resume,
        )


def _check_split(setup: Setup) -> None:
    """Check that split.csv is still the one of the training."""
    doing = f"predicting with {setup.run.path}"
    try:
        now = read_text(setup.run.split, doing)
    except (MissingDataError, DataError) as error:
        raise MissingDataError(
            f"{doing}: split.csv cannot be read any more. Remove what is left of it; it is made "
            f"again by: ham10000 train --resume {setup.run.path}"
        ) from error
    check_same_split(setup.split_text, now, doing)


def _predict_splits(setup: Setup, state: TrainState, cache: Path) -> None:
    """Predict all splits but train with the best weights; a collective operation."""
    run, recipe = setup.run, setup.recipe
    if run.done:
        _LOG.info("This run is already finished")
        return
    _check_split(setup)
    state.model.load_state_dict(final_weights(setup, state))
    if setup.rank == 0:
        write_metrics(run, state.counters)
    # The test set comes last, because its file marks the run as done.
    for split in splits_of(run)[1:]:
        predictions = predict(
            state.model,
            open_split(cache, run, split, metadata=recipe.data.metadata),
            recipe,
            split=split,
            device=setup.fabric.device,
            rank=setup.rank,
            replicas=setup.plan.replicas,
            tta=recipe.training.tta,
            crops=recipe.training.crops,
        )
        if setup.rank == 0:
            write_predictions(predictions, run.predictions(split))
    _LOG.info("The best weights are of epoch %s", state.counters.best_epoch)
