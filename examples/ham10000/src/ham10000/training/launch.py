"""Start the processes of a run on one machine, with torchrun."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from ham10000.errors import TrainingError
from ham10000.training.process import INTERRUPTED
from ham10000.training.run_dir import RunDir
from ham10000.utils import available_cores

__all__ = ["LAUNCHED", "launch"]

LAUNCHED = "HAM10000_LAUNCHED"
"""Variable that is set in processes that `launch` starts. Such a process exits with 0 instead of
`INTERRUPTED`, because torchrun would treat another status as a failure and start it again."""

_DEFAULTS = {
    # Seconds between the request to stop and the kill. A step or an evaluation of a large model on
    # a CPU, after which the process saves, can take longer than torch's default of 30.
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "600",
}
_FIXED = {
    LAUNCHED: "1",
    # Otherwise restarted processes can read the addresses of their predecessors from the shared
    # store, and try to connect to them.
    "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
}


def launch(run: RunDir, processes: int, restarts: int = 0) -> int:
    """Train a run in several processes, and wait for them.

    Args:
        run: the folder of the run, from `claim_run`.
        processes: number of processes.
        restarts: how many times all processes are restarted from the last checkpoint when one of
            them ends with an error.

    Returns:
        0; or `INTERRUPTED` if the run is not finished.

    Raises:
        TrainingError: a process failed.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = str(max(1, available_cores() // processes))
    command = ("-m", "ham10000", "train", "--resume", str(run.path))
    try:
        with _environment(_DEFAULTS | {"OMP_NUM_THREADS": threads} | os.environ | _FIXED):
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
        pass  # the processes received the signal too, and have saved
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        how = (
            f"was killed by {signal.Signals(-failure.exitcode).name}"
            if failure.exitcode < 0
            else f"ended with {failure.exitcode}"
        )
        raise TrainingError(
            f"training in {processes} processes: rank {rank} {how}; its messages are above "
            f"and in {run.log}. Resume with: ham10000 train --resume {run.path}"
        ) from error
    return 0 if run.done else INTERRUPTED


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set environment variables for processes that start within the context."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
