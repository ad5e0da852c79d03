"""What one plugin offers: its hooks are checked against the contract and called.

Each plugin is asked through a pluggy manager of its own: pluggy compares the objects it holds, and
those of one plugin are not to be in the way of another.
"""

import inspect
from collections.abc import Iterator, Sequence

import pluggy

from tenterhook import hookspecs
from tenterhook._version import __version__
from tenterhook.errors import closest
from tenterhook.extensions import Extension
from tenterhook.hookspecs import CONTRACT, KINDS, SCHEMES
from tenterhook.one_line import shown, type_name
from tenterhook.plugins.first_party import asked_as
from tenterhook.plugins.problems import PluginError, named
from tenterhook.plugins.registered import Registered


def ask(
    plugin: object, name: str, distribution: str | None = None, version: str | None = None
) -> tuple[Registered, ...]:
    """Call the plugin's hooks and return what it offers: a store by its schemes, too.

    Raises `PluginError` where it breaks the contract, and whatever its own code raises.
    """
    wanted = getattr(plugin, "TENTERHOOK_CONTRACT", CONTRACT)
    if not isinstance(wanted, int) or wanted > CONTRACT:
        raise PluginError(
            name,
            f"it is made for version {shown(wanted)} of the contract, and tenterhook {__version__} "
            f"has version {CONTRACT}. Update tenterhook.",
        )
    asked = pluggy.PluginManager(hookspecs.PROJECT)
    asked.add_hookspecs(hookspecs)
    try:
        asked.register(plugin, "plugin")
    except pluggy.PluginValidationError as error:
        raise PluginError(name, " ".join(str(error).split())) from error
    callers = [each for each in vars(asked.hook).values() if each.get_hookimpls()]
    if not callers:
        raise PluginError(name, "it implements no hook. Mark its functions with @hookimpl.")
    offers = tuple(
        Registered(extension, kind, word, name, distribution, version)
        for caller in callers
        for kind, word, extension in _answers(caller, name)
    )
    taken: dict[tuple[str, str], Registered] = {}
    for each in offers:
        old = taken.get((asked_as(each.kind), each.name))
        # A class that detects and controls is declared in both hooks, alike.
        if old and (old.kind == each.kind or old.extension != each.extension):
            what = named(each.kind, each.name)
            raise PluginError(name, f"its {what} has the name of another of its own.")
        taken[asked_as(each.kind), each.name] = each
    return offers


def _answers(caller: pluggy.HookCaller, name: str) -> Iterator[tuple[str, str, Extension]]:
    """Yield kinds, names and extensions; for a store, its schemes as well."""
    implementations = caller.get_hookimpls()
    kind = caller.name.removeprefix("tenterhook_")
    if caller.has_spec():
        for each in implementations:
            for extension in _checked(name, kind, each.function()):
                yield kind, extension.name, extension
                yield from ((SCHEMES, scheme, extension) for scheme in extension.schemes)
    elif not all(each.optionalhook for each in implementations):
        near = closest(caller.name, [f"tenterhook_{kind}" for kind in KINDS])[0]
        raise PluginError(name, f"there is no hook {caller.name!r}. Did you mean {near!r}?")


def _checked(name: str, kind: str, answer: object) -> Sequence[Extension]:
    hook = f"tenterhook_{kind}"
    if inspect.iscoroutine(answer):
        answer.close()  # or Python complains that nobody awaited it
    if not isinstance(answer, (list, tuple)):
        what = type_name(answer)
        raise PluginError(name, f"{hook} returned a {what}. Return a list of Extensions.")
    for each in answer:
        if not isinstance(each, Extension):
            raise PluginError(name, f"{hook} listed {shown(each)}, which is no Extension.")
        what = f"its {named(kind, each.name)} has"
        if "." in each.name and kind != "commands":
            raise PluginError(name, f"{what} a dot in its name, which only commands have.")
        if each.schemes and kind != "stores":
            raise PluginError(name, f"{what} schemes, which only stores have.")
    return answer
