"""The door that every plugin comes through, ours included: the hooks it may implement.

A plugin is a light module named by an entry point of the group `tenterhook.plugins`.
It implements any of these functions under `@tenterhook.hookimpl` and answers with
`Extension`s: names and import targets, so that listing plugins imports none of their code.
Each hook has a page in docs/reference/plugin-hooks.
"""

from collections.abc import Sequence

import pluggy

from tenterhook.extensions import Extension

PROJECT = "tenterhook"

CONTRACT = 1
"""The version of this contract. A plugin that says `TENTERHOOK_CONTRACT = 2` is left out where
this is 1; hooks that are only added do not raise it."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)

SCHEMES = "schemes"
"""What stores are asked for by besides their class names; see `Extension.schemes`."""


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


@hookspec
def tenterhook_layer_names() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Standard names of layers, `resid_post.3`, by whatever tells these families of models apart.

    The target is called as `name_layers(module)` and returns a
    `tenterhook.standard_names.StandardNames`, or `None` for a model that it does not know. The
    first that knows a model names its layers, in the order of the extensions' names.
    """


@hookspec
def tenterhook_points() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Points, places where no module's side is, by the word that their names begin with: `z`.

    The target is called as `find_points(module)` when a name is asked for that begins so, and
    returns the `tenterhook.points.Points` of the model, or `None` for one that it does not know.
    Extensions of one target are asked once.
    """


@hookspec
def tenterhook_commands() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Commands of `tenterhook`, by the word that runs them.

    The target is a `click.Command`. The words of our own plugins are taken, and
    a word with a dot, `sae.plot`, joins a group.
    """


@hookspec
def tenterhook_observers() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Observers of runs, by name.

    The target is called with nothing, once for each run of a capture, and returns a
    `tenterhook.observers.RunObserver`, which is told when the run begins, what becomes of each
    unit, and how the run ends.
    """


@hookspec
def tenterhook_spec_formats() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Formats of specs, by the ending of their files: `toml` reads and writes `hooks.toml`.

    The target is an object, or a module, of two functions: `loads(text)` returns plain values and
    raises `ValueError` for text that is not of the format; `dumps(values)` returns the text.
    """


@hookspec
def tenterhook_exporters() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Exporters of runs, by the name of their format: `npy`.

    The target is called as `export(run, folder, *, layers=None, missing=None, overwrite=False)`
    and writes the rows of a run to the folder; see `tenterhook.store.Exporter`.
    """


@hookspec
def tenterhook_selectors() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Words for tokens, by name: the selector `last` serves `capture(..., tokens="last")`.

    The target is called as `select(tokens)` with the tokens of one forward, a
    `tenterhook.selections.Seen`, and returns a bool mask `(batch, seq)` of those it means.
    """


@hookspec
def tenterhook_engines() -> Sequence[Extension]:  # type: ignore[empty-body]
    """Engines, which do the units of a run, by name: `local`.

    The target is called with the engine's settings as keywords, none where nobody gives any, and
    returns a `tenterhook.engine.Engine`. It may be an attrs class that is the engine.
    """


KINDS = tuple(each.removeprefix("tenterhook_") for each in vars() if each.startswith("tenterhook_"))
"""The kinds of extension; the hook that declares one is `tenterhook_` and its kind."""
