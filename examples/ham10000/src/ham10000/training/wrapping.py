"""A model as all processes train it, as a whole or only its head."""

import gc

import torch

from ham10000.training.session import Session

__all__ = ["wrap"]


def wrap(session: Session, *, head_only: bool) -> None:
    """Freeze or free the backbone, and put around the model what sums gradients over ranks.

    DDP settles at its start which parameters have gradients, so that it is built anew when that
    changes; weights and the optimizer's state stay.
    """
    if session.head_only == head_only:
        return
    session.wrapped = session.stepper = None
    gc.collect()  # an old DDP answers to gradients as long as it is there
    if head_only:
        session.model.freeze_backbone()
    else:
        session.model.unfreeze_backbone()
    module: torch.nn.Module = session.model
    if session.recipe.training.compile:
        module = torch.compile(module)  # type: ignore[assignment]
    session.wrapped, session.stepper = session.fabric.setup(module, session.optimizer)
    session.head_only = head_only
