"""Hooks for the length of a `with` block, seen only by the thread or task that opened it.

Users open them by `model.capture`, `.steer`, `.hooks` and `.replace`; what is named here is for
those who build on them: a scope over hooks of one's own, and a selector.
"""

from tenterhook._dispatch.entries import Entry
from tenterhook._dispatch.frames import Place
from tenterhook.scopes.capturing import CaptureScope
from tenterhook.scopes.recorders import Form, Recorder
from tenterhook.scopes.scope import Scope
from tenterhook.scopes.selecting import Selecting, Selector, selector_of
from tenterhook.scopes.steering import Hooks

__all__ = [
    "CaptureScope",
    "Entry",
    "Form",
    "Hooks",
    "Place",
    "Recorder",
    "Scope",
    "Selecting",
    "Selector",
    "selector_of",
]
