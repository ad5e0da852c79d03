"""Two runs side by side: which rows are of the same token, how far apart they are, and why."""

from tenterhook_store.comparing.comparison import RunComparison, compare
from tenterhook_store.comparing.measuring import LayerComparison
from tenterhook_store.comparing.recognising import RunDifference

__all__ = ["LayerComparison", "RunComparison", "RunDifference", "compare"]
