from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

from ham10000.errors import PredictionError, TrainingError
from ham10000.training import loop


def test_weights_that_answer_no_numbers_are_named_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*_: Any, **__: Any) -> None:
        raise PredictionError("predicting: row 2 has a probability that is no finite number.")

    monkeypatch.setattr(loop, "predict", predict)
    (tmp_path / "step-00000003.pt").touch()
    session: Any = SimpleNamespace(
        model=nn.Linear(1, 1),
        ema=None,
        evaluated=None,
        validation=None,
        recipe=None,
        split="val",
        rank=0,
        fabric=SimpleNamespace(device="cpu"),
        plan=SimpleNamespace(replicas=1),
        state=SimpleNamespace(step=7),
        run=SimpleNamespace(checkpoints=tmp_path),
    )
    with pytest.raises(TrainingError, match=r"after step 7.*diverged.*step-00000003\.pt.*lr"):
        loop.evaluate(session)
