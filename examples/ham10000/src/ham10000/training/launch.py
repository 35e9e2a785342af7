"""The processes of one machine, started by torchrun."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ham10000.errors import TrainingError
from ham10000.training.folder import RunFolder
from ham10000.training.signals import INTERRUPTED
from ham10000.utils import available_cores

__all__ = ["LAUNCHED", "launch"]

LAUNCHED = "HAM10000_LAUNCHED"
"""Set for the processes that `launch` starts. Such a process ends with 0 where it would end with
`INTERRUPTED`, which torchrun would take for a failure, to be tried again."""

_USUALLY = {
    # Seconds until a process that was told to stop is killed. Torch's 30 are fewer than a step, or
    # an evaluation, of a large model takes on a CPU, after which it saves.
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600",
}
_ALWAYS = {
    LAUNCHED: "1",
    # Otherwise processes that start again find the addresses of those before them in the store
    # that they meet in, now and then in time to try to connect to them.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def launch(run: RunFolder, processes: int, restarts: int = 0) -> int:
    """Start several processes that train a run, and wait for them.

    Args:
        run: claimed, so that its folder has the recipe.
        processes: how many.
        restarts: how often all start again from the last checkpoint when one of them dies.

    Returns:
        0, or `INTERRUPTED` if the run isn't finished.

    Raises:
        TrainingError: a process failed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = str(max(1, available_cores() // processes))
    command = ("-m", "ham10000", "train", "--resume", str(run.path))
    try:
        with _environment(_USUALLY | {"OMP_NUM_THREADS": threads} | os.environ | _ALWAYS):
            config = LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=processes,
                rdzv_backend="c10d",
                rdzv_endpoint="localhost:0",
                run_id=run.path.name,
                max_restarts=restarts,
                monitor_interval=0.2,
            )
            elastic_launch(config, sys.executable)(*command)
    except SignalException:
        pass  # the processes were told, and have saved
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = (
            f"was killed by {signal.Signals(-failure.exitcode).name}"
            if failure.exitcode < 0
            else f"ended with {failure.exitcode}"
        )
        raise TrainingError(
            f"training in {processes} processes: the one of rank {rank} {how}; its messages are "
            f"above and in {run.log}. Go on with: ham10000 train --resume {run.path}"
        ) from error
    return 0 if run.done else INTERRUPTED


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set what processes that are started meanwhile inherit."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
