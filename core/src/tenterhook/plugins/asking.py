"""What one plugin offers: its hooks are checked against the contract and called.

Each plugin is asked through a pluggy manager of its own: pluggy compares the objects it holds, and
those of one plugin are not to be in the way of another.
"""

import inspect
from collections.abc import Sequence

import pluggy

from tenterhook import hookspecs
from tenterhook._version import __version__
from tenterhook.errors import closest
from tenterhook.extensions import Extension
from tenterhook.hookspecs import CONTRACT, KINDS
from tenterhook.one_line import shown, type_name
from tenterhook.plugins.problems import PluginError, one_of, singular

_KIND_OF = {f"tenterhook_{kind}": kind for kind in KINDS}

SCHEMES = "schemes"
"""What is asked for by URL scheme: a store, as `sqlite:runs.db`."""

Offers = Sequence[tuple[str, Extension]]
"""Kinds and extensions."""

Word = tuple[str, str]
"""What somebody asks for: `("hooks", "TopKSae")`, `("stores", "ZarrStore")`, `("schemes", "s3")`.
No two plugins may have one word."""


def ask(plugin: object, name: str) -> Offers:
    """Call the plugin's hooks and return what it offers.

    Raises `PluginError` where it breaks the contract, and whatever its own code raises.
    """
    _check_contract(plugin, name)
    asked = pluggy.PluginManager(hookspecs.PROJECT)
    asked.add_hookspecs(hookspecs)
    try:
        asked.register(plugin, "plugin")
    except pluggy.PluginValidationError as error:
        raise PluginError(name, " ".join(str(error).split())) from error
    callers = [each for each in vars(asked.hook).values() if each.get_hookimpls()]
    if not callers:
        raise PluginError(name, "it implements no hook. Mark its functions with @hookimpl.")
    offers = [offer for caller in callers for offer in _answers(caller, name)]
    _check_own_words(offers, name)
    return offers


def _check_contract(plugin: object, name: str) -> None:
    wanted = getattr(plugin, "TENTERHOOK_CONTRACT", CONTRACT)
    if not isinstance(wanted, int):
        raise PluginError(name, f"its TENTERHOOK_CONTRACT is {shown(wanted)}. Give a whole number.")
    if wanted > CONTRACT:
        raise PluginError(
            name,
            f"it is made for version {wanted} of the contract, and tenterhook {__version__} has "
            f"version {CONTRACT}. Update tenterhook.",
        )


def _answers(caller: pluggy.HookCaller, name: str) -> Offers:
    implementations = caller.get_hookimpls()
    if caller.has_spec():
        kind = _KIND_OF[caller.name]
        return [
            (kind, extension)
            for each in implementations
            for extension in _checked(name, kind, each.function())
        ]
    if not all(each.optionalhook for each in implementations):
        near = (closest(caller.name, _KIND_OF) or list(_KIND_OF))[0]
        raise PluginError(name, f"there is no hook {caller.name!r}. Did you mean {near!r}?")
    return []


def _checked(name: str, kind: str, answer: object) -> Sequence[Extension]:
    hook = f"tenterhook_{kind}"
    if inspect.iscoroutine(answer):
        answer.close()  # or Python complains that nobody awaited it
        raise PluginError(name, f"{hook} is called, not awaited. Write `def`, not `async def`.")
    if not isinstance(answer, (list, tuple)):
        what = "None" if answer is None else f"a {type_name(answer)}"
        raise PluginError(name, f"{hook} returned {what}. Return a list of Extensions.")
    for each in answer:
        if not isinstance(each, Extension):
            raise PluginError(name, f"{hook} listed {shown(each)}, which is no Extension.")
        what = f"its {singular(kind)} {each.name!r}"
        if "." in each.name and kind != "commands":
            raise PluginError(name, f"{what} has a dot in its name, which only commands have.")
        if each.schemes and kind != "stores":
            raise PluginError(name, f"{what} has schemes, which only stores have.")
    return answer


def _check_own_words(offers: Offers, name: str) -> None:
    taken: dict[Word, tuple[str, Extension]] = {}
    for kind, extension in offers:
        for word in words(kind, extension):
            # A class that detects and controls is declared in both hooks, alike.
            if word in taken and (taken[word][0] == kind or taken[word][1] != extension):
                raise PluginError(
                    name,
                    f"its {what_is(word, kind)} has the name of "
                    f"{one_of(kind_of(word, taken[word][0]))} of its own.",
                )
            taken[word] = kind, extension


def words(kind: str, extension: Extension) -> list[Word]:
    """Return what an extension is asked for by."""
    return [(served_as(kind), extension.name), *((SCHEMES, each) for each in extension.schemes)]


def served_as(kind: str) -> str:
    """Return what a kind is asked for as: `tenterhook.hooks` serves detectors and controllers."""
    return "hooks" if kind in ("detectors", "controllers") else kind


def kind_of(word: Word, kind: str) -> str:
    """Return the kind that a word of an extension of that kind is listed under."""
    return SCHEMES if word[0] == SCHEMES else kind


def what_is(word: Word, kind: str) -> str:
    """Return the word as people say it: `detector 'TopKSae'`, `scheme 's3'`."""
    return f"{singular(kind_of(word, kind))} {word[1]!r}"
