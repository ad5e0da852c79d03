"""Applies a function to an activation."""

from collections.abc import Callable

from torch import Tensor

from tenterhook.hooks import Edit, HookType


class FunctionController(Edit):
    """Applies `function(tensor) -> tensor` to a layer's activation, input or gradient."""

    def __init__(
        self,
        layer_signature: str | int,
        function: Callable[[Tensor], Tensor] | None = None,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
        *,
        every_tensor: bool = False,
        field: str | None = None,
        item: int | None = None,
    ) -> None:
        """`function` takes the activation and returns what takes its place, any shape and dtype.

        Before the module (`PRE_FORWARD`) it takes the first tensor of the inputs. With
        `every_tensor` it is applied to every tensor of a tuple or list that the module returns,
        instead of the activation alone. With `field` or `item`, or both, it is applied to that
        field of the output, to that item of a tuple or list, to that item of the field.

        Raises `ValueError` where `function` is missing or cannot be called. What it raises, and
        a result that is no tensor, surface as `HookError` when the model runs.
        """
        if not callable(function):
            raise ValueError(
                f"function={function!r} cannot be called. Give a function that takes a tensor and "
                "returns one, for example lambda x: 2 * x."
            )
        super().__init__(hook_type, hook_id, layer_signature)
        self.function = function
        self.every_tensor = every_tensor
        self.field, self.item = field, item

    def checked(self, made: object) -> Tensor:
        """Return what `function` made, of any shape, dtype and device; `TypeError` of no tensor."""
        if not isinstance(made, Tensor):
            raise TypeError(
                f"the function {getattr(self.function, '__name__', 'given')!r} returned "
                f"{type(made).__name__}, not a tensor"
            )
        return made
