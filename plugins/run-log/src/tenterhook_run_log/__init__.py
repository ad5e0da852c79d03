"""A log of runs as JSON lines, in the file that `TENTERHOOK_RUN_LOG` names."""

from tenterhook_run_log.observer import VARIABLE, RunLog, run_log

__all__ = ["VARIABLE", "RunLog", "run_log"]
