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

Offers = Sequence[tuple[str, Extension]]
"""Kinds and extensions."""


def ask(plugin: object, name: str) -> Offers:
    """Call the plugin's hooks and return what it offers.

    Raises `PluginError` where it breaks the contract, and whatever its own code raises.
    """
    if plugin is None:
        raise PluginError(name, "it is None. Name a module, or an object with hooks.")
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
    _check_own_names(offers, name)
    return offers


def _check_contract(plugin: object, name: str) -> None:
    wanted = getattr(plugin, "TENTERHOOK_CONTRACT", CONTRACT)
    if type(wanted) is not int:
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
        return [
            (_KIND_OF[caller.name], extension)
            for each in implementations
            for extension in _checked(name, caller.name, each.function())
        ]
    if not all(each.optionalhook for each in implementations):
        near = (closest(caller.name, _KIND_OF) or list(_KIND_OF))[0]
        raise PluginError(name, f"there is no hook {caller.name!r}. Did you mean {near!r}?")
    return []


def _checked(name: str, hook: str, answer: object) -> list[Extension]:
    if inspect.iscoroutine(answer):
        answer.close()  # or Python complains that nobody awaited it
        raise PluginError(name, f"{hook} is called, not awaited. Write `def`, not `async def`.")
    # A list of another class may have no end.
    if type(answer) is not list and type(answer) is not tuple:
        what = "None" if answer is None else f"a {type_name(answer)}"
        raise PluginError(name, f"{hook} returned {what}. Return a list of Extensions.")
    for each in answer:
        if type(each) is not Extension:
            raise PluginError(name, f"{hook} listed {shown(each)}, which is no Extension.")
    return [
        Extension(each.name, each.target, each.help, needs=each.needs, example=each.example)
        for each in answer  # whatever was done to them since they were made
    ]


def _check_own_names(offers: Offers, name: str) -> None:
    for at, (kind, extension) in enumerate(offers):
        for other_kind, other in offers[:at]:
            if share_a_name(kind, extension, other_kind, other) and (
                kind == other_kind or extension != other
            ):
                what = f"{singular(kind)} {extension.name!r}"
                raise PluginError(
                    name, f"its {what} has the name of {one_of(other_kind)} of its own."
                )


def share_a_name(kind: str, one: Extension, other_kind: str, other: Extension) -> bool:
    """Say whether two extensions would be asked for in the same words."""
    return one.name == other.name and served_as(kind) == served_as(other_kind)


def served_as(kind: str) -> str:
    """Return what a kind is asked for as: `tenterhook.hooks` serves detectors and controllers."""
    return "hooks" if kind in ("detectors", "controllers") else kind
