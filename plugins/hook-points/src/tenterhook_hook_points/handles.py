"""A hook that is attached to a hook point, and what a hook is."""

from collections.abc import Callable
from typing import Any

import attrs
from torch.utils.hooks import RemovableHandle

from tenterhook_hook_points._lens_scope import LensScope

Hook = Callable[..., Any]
"""Called as `hook(tensor, hook=point)`; returns what takes the tensor's place, or `None`."""


@attrs.define(eq=False)
class LensHandle:
    """One hook that is attached to a point."""

    hook: RemovableHandle
    """The torch handle."""

    is_permanent: bool = False
    """Whether it stays unless `including_permanent` asks for it too."""

    context_level: int | None = None
    """How many `hooks` scopes it is inside, for one that a scope put on."""

    user_hook: Hook | None = attrs.field(default=None, repr=False)  # its arguments may be huge
    """What the user passed."""

    _aliases: tuple[str, ...] | None = attrs.field(default=None, init=False, repr=False)
    _scope: LensScope | None = attrs.field(default=None, init=False, repr=False)
    _reshape: Callable[[Any], None] | None = attrs.field(default=None, init=False, repr=False)
