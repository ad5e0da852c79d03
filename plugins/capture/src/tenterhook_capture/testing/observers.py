"""What every observer of runs does: a contract to inherit.

class TestMyObserver(ObserverContract):
    def make(self):
        return my_package.observer()
"""

import inspect
import sys
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl
from tenterhook.plugins import PluginManager, PluginWarning, using
from tenterhook_capture import save_activations
from tenterhook_capture.engine import UnitDone, UnitEvent, UnitFailed, UnitLost
from tenterhook_capture.observers import RunBegun, RunObserver
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore, Unit

__all__ = ["ObserverContract"]

TEXTS = ["one two three", "four five", "six seven eight nine"]
BEGUN = RunBegun(
    run_id="run", rows=9, rows_committed=4, units=3, units_committed=1, about={"model": {}}
)


class ObserverContract:
    """Inherit and give `make`, which returns the observer of one run."""

    @abstractmethod
    def make(self) -> RunObserver:
        """Call what the plugin declares, with nothing."""

    def test_each_run_has_its_own(self) -> None:
        """Two runs of one process may go on at once."""
        assert self.make() is not self.make()

    def test_it_is_called_and_not_awaited(self) -> None:
        """The methods are plain functions, which return nothing."""
        observer = self.make()
        for method in (observer.begin, observer.unit, observer.end):
            assert not inspect.iscoroutinefunction(method)

    @pytest.mark.parametrize("error", [None, OSError("the disk is full"), KeyboardInterrupt()])
    def test_it_takes_whatever_becomes_of_a_run(self, error: BaseException | None) -> None:
        """Units that are done, failed, failed again or lost; an end, and an end by an error."""
        observer, unit = self.make(), Unit(1, 4, 8)
        observer.begin(BEGUN)
        observer.unit(UnitFailed(unit, ValueError("x\ny")))
        observer.unit(UnitLost(unit, "its process is gone"))
        observer.unit(UnitDone(unit, {"seconds": 1.5}))
        observer.end(error)

    def test_it_takes_a_run_that_has_no_unit_left(self) -> None:
        """It begins, and ends."""
        observer = self.make()
        observer.begin(BEGUN)
        observer.end(None)

    def test_a_capture_tells_it_in_order(self) -> None:
        """The begin, each unit, the end; and it raises at none of them."""
        told: list[str] = []
        with _watched_by(lambda: _Noting(self.make(), told)), warnings.catch_warnings():
            warnings.simplefilter("error", PluginWarning)
            _capture(MemoryStore())
        assert told == ["begin", "unit", "unit", "unit", "end"]

    def test_it_changes_nothing(self) -> None:
        """What is kept is what is kept without it."""
        plain, watched = MemoryStore(), MemoryStore()
        with _watched_by(self.make):
            _capture(watched)
        with using(PluginManager(autoload=False)):
            _capture(plain)
        one, other = (store.run(store.runs()[0]) for store in (plain, watched))
        assert other.is_complete
        assert other["blocks.0"][:].tolist() == one["blocks.0"][:].tolist()
        assert other.tokens[:].tolist() == one.tokens[:].tolist()

    def test_another_that_raises_stops_neither(self) -> None:
        """The run goes on, and this one is told all of it."""
        told: list[str] = []
        store = MemoryStore()
        with (
            _watched_by(_Raising, lambda: _Noting(self.make(), told)),
            pytest.warns(PluginWarning, match="failed and is told no more of this run"),
        ):
            _capture(store)
        assert store.run(store.runs()[0]).is_complete
        assert told == ["begin", "unit", "unit", "unit", "end"]


class _Noting:
    """Notes what an observer is told, and tells it."""

    def __init__(self, observer: RunObserver, told: list[str]) -> None:
        self.observer = observer
        self.told = told

    def begin(self, run: RunBegun) -> None:
        self.told.append("begin")
        self.observer.begin(run)

    def unit(self, event: UnitEvent) -> None:
        self.told.append("unit")
        self.observer.unit(event)

    def end(self, error: BaseException | None) -> None:
        self.told.append("end")
        self.observer.end(error)


class _Raising:
    """Fails at once."""

    def begin(self, run: RunBegun) -> None:
        raise RuntimeError("this observer is broken")

    def unit(self, event: UnitEvent) -> None: ...

    def end(self, error: BaseException | None) -> None: ...


@contextmanager
def _watched_by(*factories: Any) -> Iterator[None]:
    """Have these observers alone be told of the runs of this process."""
    module = ModuleType("tenterhook_observers_of_a_test")
    extensions = []
    for number, factory in enumerate(factories):
        setattr(module, f"make_{number}", factory)
        target = f"{module.__name__}:make_{number}"
        extensions.append(Extension(f"observer-{number}", target, "Of a test."))

    @hookimpl
    def tenterhook_observers() -> list[Extension]:
        return extensions

    manager = PluginManager(autoload=False)
    manager.register(SimpleNamespace(tenterhook_observers=tenterhook_observers), "test")
    with pytest.MonkeyPatch.context() as patch, using(manager):
        patch.setitem(sys.modules, module.__name__, module)
        yield


def _capture(store: MemoryStore) -> str:
    """Run a small capture, of three units."""
    return save_activations(WordModel(), "blocks.0", TEXTS, store, rows_per_unit=4)
