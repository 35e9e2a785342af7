"""The loop: epochs of steps, an evaluation after each, and a checkpoint whenever one is due."""

import time
from typing import Any

from ham10000.errors import PredictionError, TrainingError
from ham10000.evaluation import Predictions, summarize
from ham10000.training.feed import rest_of_epoch
from ham10000.training.journal import Journal
from ham10000.training.predict import predict
from ham10000.training.processes import any_of, gather, same_everywhere
from ham10000.training.profiling import profiling
from ham10000.training.saving import mark_best, save
from ham10000.training.session import Session
from ham10000.training.signals import StopWish
from ham10000.training.steps import Clock, last_good, update
from ham10000.training.tally import Tally
from ham10000.training.wrapping import wrap

__all__ = ["evaluate", "fit"]


def fit(session: Session, journal: Journal, wish: StopWish) -> bool:
    """Train from where the session is until the recipe's end.

    Returns:
        Whether the end was reached; otherwise somebody wished to stop, and all is saved.
    """
    training, state = session.recipe.training, session.state
    while not state.finished(training.epochs, training.patience):
        clock = Clock()
        with journal.epoch(state, session.plan):
            went_on = train_epoch(session, journal, wish, clock)
        if not went_on:
            save(session)
            return False
        predictions = evaluate(session)
        close_epoch(session, journal, predictions, clock)
        save(session)
    return True


def train_epoch(session: Session, journal: Journal, wish: StopWish, clock: Clock) -> bool:
    """Do the steps of an epoch that are left; `False` if somebody wished to stop before its end."""
    state, plan, training = session.state, session.plan, session.recipe.training
    wrap(session, head_only=state.epoch < training.head_first_epochs)
    session.model.train()
    saved_at, saved = time.monotonic(), state.step
    fed = rest_of_epoch(session)
    with profiling(session) as traced:
        while state.step_in_epoch < plan.steps:
            due = state.step > saved and (
                (training.checkpoint_steps or 0)
                and state.step % (training.checkpoint_steps or 1) == 0
            )
            if training.checkpoint_minutes is not None:
                due = due or time.monotonic() - saved_at >= 60 * training.checkpoint_minutes
            stop, due = any_of([bool(wish), bool(due)], session.fabric.device)
            if stop:
                return False
            if due:
                save(session)
                saved_at, saved = time.monotonic(), state.step
            images = plan.images(state.step_in_epoch)
            loss = update(session, fed, clock)
            journal.step(loss, images)
            traced()
    return True


def evaluate(session: Session) -> Predictions:
    """Predict the validation images with the weights that count, all ranks together.

    Raises:
        TrainingError: the weights are no numbers any more.
    """
    same_everywhere(session.model.buffers())
    if session.ema is not None:
        same_everywhere(session.ema.module.buffers())
    try:
        return predict(
            session.evaluated,
            session.validation,
            session.recipe,
            split=session.split,
            device=session.fabric.device,
            rank=session.rank,
            replicas=session.plan.replicas,
        )
    except PredictionError as error:  # of weights that made no number in any step yet
        raise TrainingError(
            f"evaluating after step {session.state.step}: the model's answers are no finite "
            f"numbers, so that its weights have diverged. {last_good(session)}. Lower "
            "optimizer.lr, set optimizer.clip_norm, or use training.precision 32."
        ) from error


def close_epoch(session: Session, journal: Journal, predictions: Predictions, clock: Clock) -> None:
    """Measure an epoch, keep its weights if they are the best, and go on to the next."""
    state, training = session.state, session.recipe.training
    seen = Tally.sum(gather(session.tally.state_dict())).metrics()
    measured = summarize(predictions.targets, predictions.probabilities)
    measured = {"loss": measured["log_loss"], **measured}
    state.epoch += 1
    value = {"epoch": state.epoch, **measured}[training.monitor]
    state.step_in_epoch = 0
    session.tally = Tally()
    rates: list[float] = [group["lr"] for group in session.optimizer.param_groups]
    session.schedule.step(value)
    if state.judge(value, training.mode):
        mark_best(session)
    if training.stop_monitor is None:
        state.wait(value, training.mode, training.min_delta)
    else:
        state.wait(measured[training.stop_monitor], training.stop_mode, training.min_delta)
    common: dict[str, Any] = {"epoch": state.epoch, "step": state.step}
    journal.end_epoch(
        session,
        {**common, "split": "train", **seen, "lr": max(rates), **journal.pace()},
        {**common, "split": session.split, **measured},
        predictions,
        clock,
    )
