"""What the whole model was given in the forward that runs."""

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tenterhook.selections import Seen, Watch


class Following:
    """Follows the forwards of one model, while somebody needs to know what it was given."""

    def __init__(self) -> None:
        self._watch = Watch()
        self._module: nn.Module | None = None
        self._handles: list[RemovableHandle] = []

    def follow(self, module: nn.Module | None) -> None:
        """Follow this model, and no other; with `None`, none."""
        if module is self._module:
            return
        for handle in self._handles:
            handle.remove()
        self._handles, self._module = [], module
        if module is not None:
            watch = self._watch = Watch()
            self._handles = [
                module.register_forward_pre_hook(watch.before, prepend=True, with_kwargs=True),
                module.register_forward_hook(watch.after, always_call=True),
            ]

    @property
    def seen(self) -> Seen | None:
        """The tokens of the forward that runs in this thread: which are real, and where."""
        return self._watch.seen

    @property
    def token_ids(self) -> Tensor | None:
        """The token ids of the forward that runs in this thread, int `(batch, seq)`."""
        inputs = self._watch.inputs
        if inputs is None:
            return None
        # A model with names of its own: its first input.
        for ids in (inputs.get("input_ids"), *inputs.values()):
            if isinstance(ids, Tensor):
                return ids if ids.ndim == 2 and not ids.is_floating_point() else None
        return None
