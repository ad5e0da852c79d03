"""What a task of `SlurmEngine` runs: reaches who sent for it, and does the units it is given.

`python -m tenterhook_capture.slurm_worker HOST PORT`, with the key in the variable `KEY`. It ends
as a process of `process_worker` does: when there are no more units, when Slurm tells it to
(SIGTERM, which discards the unit it has), and when whoever sent for it is gone.
"""

import os
import platform
import sys
import time
from collections.abc import Mapping

from tenterhook_capture.process_worker import work_for
from tenterhook_capture.slurm_wire import connect, wait_for_end

KEY = "TENTERHOOK_SLURM_KEY"


def task_of(variables: Mapping[str, str]) -> tuple[str, int, str]:
    """Return the job and the number of a task in it, as Slurm says, and the node's name."""
    node = variables.get("SLURMD_NODENAME") or platform.node()
    return variables["SLURM_ARRAY_JOB_ID"], int(variables["SLURM_ARRAY_TASK_ID"]), node


def main(host: str, port: int) -> None:
    """Do units until there are no more."""
    key = os.environ.pop(KEY)
    try:
        pipe = connect(host, port, key)
    except OSError as error:
        sys.exit(f"tenterhook: {host} port {port}, which sent for this task, is not there: {error}")
    pipe.send(task_of(os.environ))

    def gone() -> None:
        wait_for_end(pipe)
        time.sleep(0.5)  # who has no unit is told so, too, and ends by itself

    work_for(pipe, gone)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
