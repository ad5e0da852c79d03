"""The tokenizer that a run's tokens belong to."""

from collections.abc import Mapping
from typing import Any

from tenterhook_store.errors import NoTokenizer
from tenterhook_store.schemes import resolve_name


def load_tokenizer(run_id: str, about: Mapping[str, Any]) -> Any:
    """Load the model that made a run, by the name and revision in the run, for its tokenizer.

    The plugin that has the loader of the name's scheme loads it. Raises `NoTokenizer` where the
    run names no model, it cannot be loaded, or its tokenizer is not the one that the run was made
    with.
    """
    model = about.get("model") or {}
    name, revision = model.get("name"), model.get("revision")
    if not name:
        raise NoTokenizer(run_id, "it does not say which model made it")
    try:
        loader, rest = resolve_name("loaders", name)
        loaded = loader.call(rest, dtype=None, device=None, revision=revision)
    except (ImportError, LookupError, ValueError, OSError, RuntimeError) as error:
        cause = str(error).rstrip(".")
        raise NoTokenizer(run_id, f"its model {name!r} cannot be loaded: {cause}") from error
    tokenizer = getattr(loaded, "tokenizer", None)
    if tokenizer is None:
        raise NoTokenizer(run_id, f"its model {name!r} is loaded without one")
    now = loaded.describe_model().get("tokenizer")
    if now != model.get("tokenizer"):
        raise NoTokenizer(run_id, f"the tokenizer of {name!r} is another than it was")
    return tokenizer
