"""Hooks for the length of a `with` block, seen only by the thread or task that opened it.

Users open them by `model.capture`, `.steer`, `.hooks` and `.replace`; what is named here is for
those who build on them: a scope over hooks of one's own, and a selector.
"""

from tenterhook._dispatch.entries import Entry as Entry
from tenterhook._dispatch.frames import Place as Place
from tenterhook.scopes.capturing import CaptureScope as CaptureScope
from tenterhook.scopes.recorders import Form as Form
from tenterhook.scopes.recorders import Recorder as Recorder
from tenterhook.scopes.scope import Scope as Scope
from tenterhook.scopes.selecting import Selecting as Selecting
from tenterhook.scopes.selecting import Selector as Selector
from tenterhook.scopes.selecting import selector_of as selector_of
from tenterhook.scopes.steering import Hooks as Hooks
