"""Which hooks a pickle of a point keeps: those that can be pickled; what is said of the others."""

import io
import pickle
import warnings
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from tenterhook.hooks import HookWarning


class _Nowhere(io.RawIOBase):
    """A file for what is pickled only to see whether it can be."""

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        return len(data)


class _Pickler(pickle.Pickler):
    """Leaves out tensors, which may be huge, and modules: a hook may be a method of the model."""

    def persistent_id(self, obj: Any) -> Any:
        """Return what stands for an object; `None` for one that is pickled."""
        return 0 if isinstance(obj, Tensor | nn.Module) else None


def pickles(hook: Any) -> bool:
    """Whether a hook can be pickled, as functions of a module can, and methods, and partials."""
    try:
        _Pickler(_Nowhere()).dump(hook)
    except Exception:  # noqa: BLE001 - of the hook's own `__reduce__`, too
        return False
    return True


def warn_of_lost(point: str | None, hooks: Sequence[Any]) -> None:
    """Warn of the hooks of a point that its pickle leaves out, if there are any."""
    if hooks:
        names = (getattr(hook, "__qualname__", type(hook).__name__) for hook in hooks)
        count = "1 hook" if len(hooks) == 1 else f"{len(hooks)} hooks"
        warnings.warn(
            f"A pickle of hook point {point or '(unnamed)'!r} leaves out {count} that cannot be "
            f"pickled: {', '.join(names)}. Attach them again to what is loaded, or give functions "
            "of a module, which can be pickled.",
            HookWarning,
            stacklevel=3,
        )
