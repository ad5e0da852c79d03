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
from tenterhook.hookspecs import CONTRACT, KINDS, SCHEMES
from tenterhook.one_line import shown, type_name
from tenterhook.plugins.first_party import served_as
from tenterhook.plugins.problems import PluginError, one_of, singular

_KIND_OF = {f"tenterhook_{kind}": kind for kind in KINDS}

Offers = Sequence[tuple[str, str, Extension]]
"""Kinds, names and extensions. A store is offered by its class name and by each of its schemes."""


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
    _check_own_names(offers, name)
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
        found = [
            found for each in implementations for found in _checked(name, kind, each.function())
        ]
        schemes = [(SCHEMES, scheme, each) for each in found for scheme in each.schemes]
        return [*((kind, each.name, each) for each in found), *schemes]
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


def _check_own_names(offers: Offers, name: str) -> None:
    taken: dict[tuple[str, str], tuple[str, Extension]] = {}
    for kind, offered, extension in offers:
        old_kind, old = taken.get((served_as(kind), offered), ("", None))
        # A class that detects and controls is declared in both hooks, alike.
        if old_kind == kind or old not in (None, extension):
            raise PluginError(
                name,
                f"its {singular(kind)} {offered!r} has the name of {one_of(old_kind)} of its own.",
            )
        taken[served_as(kind), offered] = kind, extension
