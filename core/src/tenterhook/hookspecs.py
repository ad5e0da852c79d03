"""The door that every plugin comes through, ours included: the hooks it may implement.

A plugin is a light module named by an entry point of the group `tenterhook.plugins`.
It implements any of these functions under `@tenterhook.hookimpl` and answers with
`Extension`s: names and import targets, so that listing plugins imports none of their code.
"""

from collections.abc import Sequence

import pluggy

from tenterhook.extensions import Extension

PROJECT = "tenterhook"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

KINDS = ("detectors", "controllers", "stores", "loaders", "datasets")
"""The kinds of extension; the hook that declares one is `tenterhook_` and its kind."""


@hookspec
def tenterhook_detectors() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Detector classes, by class name; a hook that also controls is named here and below."""


@hookspec
def tenterhook_controllers() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Controller classes, by class name."""


@hookspec
def tenterhook_stores() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Store classes, by class name; see `tenterhook.store.Store`."""


@hookspec
def tenterhook_loaders() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Model loaders, by scheme: `tiny` serves `tiny:`, `hf` names without a scheme.

    The target is called as `load(name, *, dtype=None, device=None, revision=None)` with the part
    of the name after the scheme, and returns a `tenterhook.text_model.TextModel`.
    """


@hookspec
def tenterhook_datasets() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Sources of documents, by scheme: `tiny` serves `tiny:sample`, `hf` names without a scheme.

    The target is called as `read(name, *, field=None)` with the part of the name after the scheme,
    and returns a `tenterhook.documents.Documents`.
    """
