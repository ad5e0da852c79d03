"""The hook types: what a user's hook is, before anything is said of where it runs."""

import threading
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tenterhook.hook_type import HookType

if TYPE_CHECKING:  # importing the hook types imports no torch
    from torch import Tensor, nn

    from tenterhook.context import HookContext


class OwnRegistration(Protocol):
    """What a hook knows of its registration: that it is to be told when the hook is switched."""

    def refresh(self) -> None:
        """Take note that the hook was enabled or disabled."""

    def remove(self) -> None:
        """Unregister the hook."""


class _Here(threading.local):
    """Which hook of several layers this thread calls now, and at which of them."""

    call: "tuple[Hook | None, str | None]" = (None, None)


here = _Here()


class Hook(ABC):  # noqa: B024 - its two kinds have the abstract methods
    """Something that runs when a module does. Subclass `Detector` or `Controller`, or both."""

    detects: ClassVar[bool] = False
    """Whether it is a `Detector`: what runs hooks asks this and knows no classes."""

    controls: ClassVar[bool] = False
    """Whether it is a `Controller`."""

    edits: ClassVar[bool] = False
    """Whether `Edit.function` is all that it does."""

    def __init__(
        self,
        layer_signature: str | int | None = None,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
    ) -> None:
        """Raises `ValueError` for an unknown `hook_type`, naming the valid ones."""
        if type(self) is Hook:
            raise TypeError("Hook is abstract. Subclass Detector, Controller, or both.")
        self.layer_signature = layer_signature
        self.hook_type = HookType(hook_type)
        self.id = hook_id if hook_id is not None else str(uuid.uuid4())
        self._enabled = True
        self._context: HookContext | None = None
        self._registration: OwnRegistration | None = None
        self._scopes = 0
        """In how many open scopes it stands."""

    _several: bool = False
    """Whether it ever stood on several layers at once, so that each call says on which it is."""

    @property
    def layer_signature(self) -> str | int | None:
        """The layer it was made for, then the one it went to; in a call the one that calls it."""
        hook, layer = here.call if self._several else (None, None)
        return layer if hook is self else vars(self)["layer_signature"]

    @layer_signature.setter
    def layer_signature(self, layer: str | int | None) -> None:
        vars(self)["layer_signature"] = layer

    @property
    def enabled(self) -> bool:
        """Whether the hook runs."""
        return self._enabled

    def is_enabled(self) -> bool:
        """Whether the hook runs."""
        return self._enabled

    def enable(self) -> None:
        """Let the hook run; at any time, from any thread."""
        self._set_enabled(True)

    def disable(self) -> None:
        """Keep the hook from running, at no cost to the model; at any time, from any thread."""
        self._set_enabled(False)

    def _set_enabled(self, enabled: bool) -> None:
        self._enabled = enabled
        registration = self._registration
        if registration is not None:
            registration.refresh()

    @property
    def context(self) -> "HookContext | None":
        """The context of the model the hook is registered on, else `None`."""
        return self._context

    def set_context(self, context: "HookContext | None") -> None:
        """Set the context; registration does."""
        self._context = context

    def get_torch_hook(self) -> Callable[..., Any]:
        """Return a plain callable for `register_forward_hook` of any module.

        For a `PRE_FORWARD` hook it fits `register_forward_pre_hook`; a `BACKWARD` hook's is
        registered as a forward hook too, and hooks the gradient of the output it sees.
        Either way of registering works, with and without `with_kwargs=True`.
        It honours `enabled` and raises `HookError` where the hook fails.
        """
        from tenterhook._dispatch.torch_hook import torch_hook

        return torch_hook(self)

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or pickle holds: no model, for a copy is registered nowhere."""
        unregistered = {"_context": None, "_registration": None, "_scopes": 0, "_several": False}
        return vars(self) | unregistered

    def __repr__(self) -> str:
        state = "" if self._enabled else ", disabled"
        return (
            f"{type(self).__name__}(id={self.id!r}, layer={self.layer_signature!r}, "
            f"{self.hook_type.value}{state})"
        )


class Detector(Hook):
    """Observes: keeps or computes something from what passes, and changes nothing."""

    detects = True

    reads_only: bool = False
    """Promise that it writes to nothing it is given, so that no call looks whether it did.

    That saves a few hundredths of a call that does next to nothing else.
    """

    def __init__(
        self,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
        store: Any = None,
        layer_signature: str | int | None = None,
    ) -> None:
        """`store` is a `tenterhook.store.Store` the detector may save to."""
        # By keyword: in a hook that is both, the next class is the other kind.
        super().__init__(layer_signature=layer_signature, hook_type=hook_type, hook_id=hook_id)
        self.store = store
        self.metadata: dict[str, Any] = {}
        self.tensor_metadata: dict[str, Tensor] = {}

    @abstractmethod
    def process_activations(self, module: "nn.Module", input: Any, output: Any) -> None:
        """Look at one call of `module`; what is returned is ignored.

        `input` is the tuple of inputs, keyword inputs included (see `tenterhook.Inputs`), and
        `output` what the module returned, `None` before it ran. For a `BACKWARD` hook, `output`
        is the gradient with respect to the activation and `input` a tuple of it.
        They are the model's own tensors: a write to the activation is found and raised as
        `HookError`.
        """


class Controller(Hook):
    """Changes: returns a tensor that takes the activation's place."""

    controls = True

    every_tensor: bool = False
    """Whether it is called for every tensor of a tuple or list that a module returned, and not
    for the activation alone."""

    field: str | None = None
    """The field of the output that it is for, in place of the activation: `"hidden_states"`."""

    item: int | None = None
    """The item that it is for, of the tuple or list that a module returned, or that `field` is."""

    def __init__(
        self,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
        layer_signature: str | int | None = None,
    ) -> None:
        """See `Hook`."""
        super().__init__(layer_signature=layer_signature, hook_type=hook_type, hook_id=hook_id)

    @abstractmethod
    def modify_activations(
        self, module: "nn.Module", inputs: "Tensor | None", output: "Tensor | None"
    ) -> "Tensor | tuple[Any, ...] | None":
        """Return what takes the activation's place, or `None` to leave it.

        `inputs` is the first tensor of the inputs, `output` the activation of the output, `None`
        before the module ran (`PRE_FORWARD`); for a `BACKWARD` hook both are the gradient.
        Shape and dtype of what is returned may differ; the tensors given must not be written to.
        A `PRE_FORWARD` controller may return a tuple of inputs instead.
        """


class Edit(Controller):
    """A controller that is a function of the activation alone.

    A call costs less than another controller's: nobody looks at the inputs. A subclass that has its
    own `modify_activations` is a controller as any other.
    """

    function: "Callable[[Tensor], Tensor | None]"
    """A method, or an attribute, which may change: returns what takes the activation's place, or
    `None` to leave it.

    Before the module (`PRE_FORWARD`) it is given the first input, for a `BACKWARD` hook the
    gradient.
    """

    reads_only: bool = False
    """Promise that `function` writes to nothing it is given; see `Detector.reads_only`."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.edits = cls.modify_activations is Edit.modify_activations

    def checked(self, made: Any) -> Any:
        """Return what `function` made, where that is no plain tensor; may raise instead."""
        return made

    def modify_activations(
        self, module: "nn.Module", inputs: "Tensor | None", output: "Tensor | None"
    ) -> Any:
        """Return `function` of the activation; before the module ran, of the first input."""
        activation = inputs if output is None else output
        return None if activation is None else self.checked(self.function(activation))
