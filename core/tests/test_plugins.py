import pickle
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from tenterhook import plugins
from tenterhook.extensions import Extension
from tenterhook.hookspecs import KINDS, hookimpl
from tenterhook.plugins import (
    AmbiguousExtension,
    PluginError,
    PluginManager,
    PluginWarning,
    UnknownExtension,
    default_manager,
)

Install = Callable[..., Path]


def declaring(*names: str, kind: str = "detectors", target: str = "fractions:Fraction") -> str:
    """Return the source of a plugin that offers these."""
    listed = ", ".join(f"Extension({name!r}, {target!r}, 'Does it.')" for name in names)
    return f"""
from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl

@hookimpl
def tenterhook_{kind}():
    return [{listed}]
"""


def plugin(**kinds: object) -> SimpleNamespace:
    """Return a plugin made in this process, whose hooks return these."""

    def returning(answer: object) -> Callable[[], object]:
        return lambda: answer

    return SimpleNamespace(
        **{f"tenterhook_{kind}": hookimpl(returning(answer)) for kind, answer in kinds.items()}
    )


def one(name: str = "One", target: str = "fractions:Fraction") -> Extension:
    """Return an extension that nobody loads."""
    return Extension(name, target, "Does it.")


class TestInstalled:
    def test_each_is_listed_with_where_it_comes_from(self, install: Install) -> None:
        """What an installed plugin declares is found, with its distribution and version."""
        install("some-plugin", {"some": declaring("Some")}, version="2.1")

        found = PluginManager().extensions("detectors")["Some"]

        assert found.extension == one("Some")
        assert (found.kind, found.plugin) == ("detectors", "some")
        assert (found.distribution, found.version) == ("some-plugin", "2.1")

    def test_nothing_that_is_declared_is_imported(self, install: Install) -> None:
        """Listing imports plugins' light modules and none of their targets."""
        install("some-plugin", {"some": declaring("Some", target="plugin_heavy:Some")})

        assert list(PluginManager().extensions("detectors")) == ["Some"]
        assert "plugin_heavy" not in sys.modules

    @pytest.mark.parametrize("names", [("b-plugin", "a-plugin"), ("a-plugin", "b-plugin")])
    def test_a_name_that_two_plugins_offer_serves_neither(
        self, install: Install, names: tuple[str, str]
    ) -> None:
        """Whichever is found first; all else of both works, and one problem names both."""
        install(names[0], {"one": declaring("Same", "One")})
        install(names[1], {"two": declaring("Same", "Two")})

        manager = PluginManager()

        assert list(manager.extensions("detectors")) == ["One", "Two"]
        (problem,) = manager.problems
        assert problem.distribution == "b-plugin"
        for name in ("a-plugin", "b-plugin"):
            assert f"TENTERHOOK_BLOCK_PLUGINS={name}" in problem.remedy
        with pytest.raises(
            AmbiguousExtension, match=r"by plugin '...' \(a-plugin .* and by plugin"
        ):
            manager.extension("detectors", "Same")
        with pytest.raises(AmbiguousExtension):
            manager.load("detectors", "Same")

    def test_a_distribution_found_twice_counts_once(self, install: Install) -> None:
        """Stale metadata of the same distribution, in any spelling, is no second plugin."""
        install("some-plugin", {"some": declaring("Some")}, version="1.0")
        install("Some_Plugin", {"some": declaring("Some")}, version="0.9")

        manager = PluginManager()

        assert list(manager.extensions("detectors")) == ["Some"]
        assert manager.problems == ()

    def test_metadata_that_cannot_be_read_is_reported(self, install: Install) -> None:
        """A damaged distribution does not hide the others."""
        site = install("good-plugin", {"good": declaring("Good")})
        install("damaged-plugin", {"damaged": declaring("Damaged")})
        site.joinpath("damaged_plugin-1.0.dist-info/entry_points.txt").write_bytes(b"[\xff")

        manager = PluginManager()

        assert list(manager.extensions("detectors")) == ["Good"]
        (problem,) = manager.problems
        assert "cannot be read" in problem.cause
        assert str(site) in problem.cause

    def test_loading_again_finds_what_was_installed_since(self, install: Install) -> None:
        """A notebook that installs a plugin needs no new process; nothing is reported twice."""
        install("bad-plugin", {"bad": "raise OSError('no')"})
        manager = PluginManager()
        install("new-plugin", {"new": declaring("New")})

        assert manager.load_entry_points() == ()
        assert list(manager.extensions("detectors")) == ["New"]
        assert len(manager.problems) == 1


BROKEN = {
    "import-error": ("import not_there_at_all", "No module named 'not_there_at_all'"),
    "syntax-error": ("def", "SyntaxError"),
    "exits": ("import sys; sys.exit(3)", "SystemExit: 3."),
    "no-hook": ("x = 1", "implements no hook. Mark its functions with @hookimpl"),
    "misspelt-hook": (
        declaring("X").replace("tenterhook_detectors", "tenterhook_detector"),
        "there is no hook 'tenterhook_detector'. Did you mean 'tenterhook_detectors'?",
    ),
    "unknown-argument": (declaring("X").replace("detectors()", "detectors(model)"), "'model'"),
    "hook-raises": (declaring("X").replace("return", "return 1 / 0 #"), "ZeroDivisionError"),
    "hook-exits": (declaring("X").replace("return", "raise SystemExit(4) #"), "SystemExit: 4."),
    "returns-nothing": (
        declaring("X").replace("return", ""),
        "tenterhook_detectors returned a NoneType",
    ),
    "returns-one": (declaring("X").replace("return [", "return (").replace("]", ")"), "Extension"),
    "returns-names": (declaring("X").replace("return", "return ['X'] #"), "'X', which is no Ext"),
    "bad-target": (declaring("X", target="fractions"), "not an import target"),
    "name-twice": (declaring("X", "X"), "its detector 'X' has the name of another of its own"),
}


@pytest.mark.parametrize(("source", "cause"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_plugin_is_reported_and_the_others_work(
    install: Install, source: str, cause: str
) -> None:
    """However a plugin fails, it is left out whole, by name, and nothing else is."""
    install("a-plugin", {"good": declaring("Good")})
    install("broken-plugin", {"broken": source}, version="0.3")
    install("c-plugin", {"last": declaring("Last", kind="stores")})

    manager = PluginManager()

    assert list(manager.extensions("detectors")) == ["Good"]
    assert list(manager.extensions("stores")) == ["Last"]
    (problem,) = manager.problems
    assert (problem.distribution, problem.version) == ("broken-plugin", "0.3")
    assert problem.entry_point == "broken"
    assert cause in problem.cause
    assert "set TENTERHOOK_BLOCK_PLUGINS=broken-plugin." in problem.remedy
    assert "\n" not in str(problem)
    assert str(problem).startswith("Plugin 'broken' of broken-plugin 0.3 was left out: ")


class TestEnvironment:
    @pytest.fixture(autouse=True)
    def two_plugins(self, install: Install) -> None:
        """Install one called `some` and one called `other`."""
        install("some-plugin", {"some": declaring("Some")})
        install("other-plugin", {"other": declaring("Other")})

    @pytest.mark.parametrize(
        ("only", "block", "listed"),
        [
            ("some", None, ["Some"]),
            ("Other_Plugin", None, ["Other"]),
            ("some, other", None, ["Other", "Some"]),
            ("", None, []),
            (None, "some", ["Other"]),
            (None, "some-plugin,other", []),
            (None, "", ["Other", "Some"]),
            ("some,other", "some", ["Other"]),
        ],
    )
    def test_the_variables_choose(
        self,
        monkeypatch: pytest.MonkeyPatch,
        only: str | None,
        block: str | None,
        listed: list[str],
    ) -> None:
        """Names are of entry points or distributions; what is kept out is never imported."""
        for name, value in [("TENTERHOOK_PLUGINS", only), ("TENTERHOOK_BLOCK_PLUGINS", block)]:
            if value is not None:
                monkeypatch.setenv(name, value)

        manager = PluginManager()

        assert list(manager.extensions("detectors")) == listed
        assert [name for name in ("Other", "Some") if f"plugin_{name.lower()}" in sys.modules] == (
            listed
        )
        assert manager.problems == ()

    def test_a_name_that_nothing_has_is_reported(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A typo in the list does not pass for an empty one."""
        monkeypatch.setenv("TENTERHOOK_PLUGINS", "som,other")

        (problem,) = PluginManager().problems

        assert problem.entry_point == "som"
        assert "TENTERHOOK_PLUGINS names it, and it is not installed" in str(problem)


class TestByHand:
    def test_a_manager_of_its_own_has_what_it_was_given(self) -> None:
        """Programs that embed tenterhook choose their plugins; managers share nothing."""
        manager, other = PluginManager(autoload=False), PluginManager(autoload=False)

        manager.register(plugin(detectors=[one()]), "mine")

        assert manager.extension("detectors", "One") == one()
        assert manager.extensions("detectors")["One"].distribution is None
        assert all(not other.extensions(kind) for kind in KINDS)

    def test_a_hook_that_is_both_kinds_is_declared_twice(self) -> None:
        """An equal extension under both kinds is one class, and no clash."""
        manager = PluginManager(autoload=False)

        manager.register(plugin(detectors=[one()], controllers=[one()]), "both")

        assert manager.extension("detectors", "One") == manager.extension("controllers", "One")

    @pytest.mark.parametrize(
        "second",
        [
            plugin(detectors=[one()]),
            plugin(controllers=[one()]),
            plugin(controllers=[one(target="fractions:Other")]),
        ],
        ids=["same kind", "other kind, same class", "other kind, other class"],
    )
    def test_hooks_of_two_plugins_need_two_names(self, second: object) -> None:
        """`tenterhook.hooks` serves both kinds, so they share their names."""
        manager = PluginManager(autoload=False)
        manager.register(plugin(detectors=[one()]), "first")

        with pytest.raises(PluginError, match=r"'second'.* 'One' .* of plugin 'first'"):
            manager.register(second, "second")

        assert manager.extensions("detectors")["One"].plugin == "first"
        assert not manager.extensions("controllers")

    def test_other_kinds_have_names_of_their_own(self) -> None:
        """A loader and a data source may share a scheme."""
        manager = PluginManager(autoload=False)
        manager.register(plugin(loaders=[one("tiny")], datasets=[one("tiny", "a:read")]), "tiny")

        assert manager.extension("datasets", "tiny").target == "a:read"

    @pytest.mark.parametrize("name", ["first", "second"])
    def test_a_plugin_is_registered_once(self, name: str) -> None:
        """Neither a name nor a plugin goes in twice."""
        manager, mine = PluginManager(autoload=False), plugin(detectors=[one()])
        manager.register(mine, "first")

        with pytest.raises(PluginError, match="registered already"):
            manager.register(mine, name)

    def test_what_was_refused_can_be_registered_when_repaired(self) -> None:
        """A failed registration leaves nothing behind."""
        manager = PluginManager(autoload=False)
        with pytest.raises(PluginError, match="no hook 'tenterhook_detectrs'"):
            manager.register(plugin(detectrs=[one()], detectors=[one()]), "mine")

        manager.register(plugin(detectors=[one()]), "mine")

        assert list(manager.extensions("detectors")) == ["One"]

    def test_a_hook_of_a_later_tenterhook_can_be_optional(self) -> None:
        """A plugin may implement what this version does not know, if it says so."""
        mine, manager = plugin(detectors=[one()]), PluginManager(autoload=False)

        @hookimpl(optionalhook=True)
        def tenterhook_dreams() -> list[str]:
            return []

        mine.tenterhook_dreams = tenterhook_dreams

        manager.register(mine, "mine")

        assert list(manager.extensions("detectors")) == ["One"]

    def test_unregistering_takes_out_all_it_offers(self) -> None:
        """Its names are free again; taking it out twice is no error."""
        manager = PluginManager(autoload=False)
        manager.register(plugin(detectors=[one()], stores=[one()]), "mine")

        assert manager.unregister("mine")
        assert not manager.unregister("mine")
        assert not manager.extensions("detectors")
        assert not manager.extensions("stores")

    def test_a_kind_must_be_one(self) -> None:
        """A mistyped kind is an error and no empty answer."""
        with pytest.raises(ValueError, match=r"kind='detector' .*'detectors'"):
            PluginManager(autoload=False).extensions("detector")


class TestUnknownExtension:
    def ask(self, kind: str, name: str) -> UnknownExtension:
        """Ask a manager that has one store for something else."""
        manager = PluginManager(autoload=False)
        manager.register(plugin(stores=[one("MemoryStore")]), "mine")
        with pytest.raises(UnknownExtension) as caught:
            manager.extension(kind, name)
        return caught.value

    def test_it_names_the_nearest(self) -> None:
        """A typo is answered with the name that was meant."""
        error = self.ask("stores", "MemoryStor")

        assert isinstance(error, LookupError)
        assert (error.kind, error.name) == ("stores", "MemoryStor")
        assert error.known == ("MemoryStore",)
        assert error.nearest == ("MemoryStore",)
        assert str(error) == (
            "No loaded plugin has the store 'MemoryStor'. Did you mean 'MemoryStore'?"
        )

    @pytest.mark.parametrize(
        ("kind", "name", "way_out"),
        [
            ("stores", "ZarrStore", "pip install tenterhook-zarr"),
            ("loaders", "hf", "pip install tenterhook-transformers"),
            ("loaders", "zzz", "tenterhook plugins list"),
        ],
    )
    def test_it_says_the_way_out(
        self, install: Install, kind: str, name: str, way_out: str
    ) -> None:
        """A first-party plugin that is missing is named with the command that installs it."""
        assert way_out in str(self.ask(kind, name))

    def test_it_pickles(self) -> None:
        """Errors come back whole from worker processes."""
        error = self.ask("stores", "x")
        copy = pickle.loads(pickle.dumps(error))

        assert (str(copy), copy.known) == (str(error), error.known)

    def test_plugin_errors_pickle(self) -> None:
        """Errors come back whole from worker processes."""
        copy = pickle.loads(pickle.dumps(PluginError("mine", "it is broken.")))

        assert str(copy) == "Plugin 'mine' cannot be registered: it is broken."


class TestDefaultManager:
    def test_threads_get_one_manager_with_everything(self, install: Install) -> None:
        """Whoever asks first loads; the others wait for it."""
        install("slow-plugin", {"slow": "import time; time.sleep(0.2)" + declaring("Slow")})
        seen: list[tuple[PluginManager, list[str]]] = []

        def look() -> None:
            manager = default_manager()
            seen.append((manager, list(manager.extensions("detectors"))))

        threads = [threading.Thread(target=look) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert seen == [(default_manager(), ["Slow"])] * 8

    def test_it_warns_once_of_what_was_left_out(
        self, install: Install, recwarn: pytest.WarningsRecorder
    ) -> None:
        """One warning for each plugin, at first use, and none after."""
        install("bad-plugin", {"bad": "raise OSError('no')"})

        with pytest.warns(PluginWarning, match=r"Plugin 'bad' of bad-plugin 1.0 .*OSError: no"):
            default_manager()
        default_manager()

        assert not recwarn.list

    def test_a_plugin_may_ask_for_it_while_it_is_loaded(self, install: Install) -> None:
        """A plugin that looks for another's extension at import gets the manager as it stands."""
        install("a-plugin", {"first": declaring("First")})
        asking = "from tenterhook.plugins import default_manager\nassert default_manager()\n"
        install("b-plugin", {"asking": asking + declaring("Asking")})

        assert list(default_manager().extensions("detectors")) == ["Asking", "First"]


class TestLoadHook:
    @pytest.mark.parametrize("kind", ["detectors", "controllers"])
    def test_it_returns_the_class(self, install: Install, kind: str) -> None:
        """Detectors and controllers alike."""
        from fractions import Fraction

        install("some-plugin", {"some": declaring("Some", kind=kind)})

        assert plugins.load_hook("Some") is Fraction

    @pytest.mark.parametrize(
        ("name", "distribution"),
        [
            ("LayerActivationDetector", "tenterhook-layer-activation"),
            ("ModelInputDetector", "tenterhook-model-io"),
            ("FunctionController", "tenterhook-function-controller"),
        ],
    )
    def test_a_missing_first_party_plugin_is_named(
        self, install: Install, name: str, distribution: str
    ) -> None:
        """The error has the command that installs it."""
        said = f"No loaded plugin has the hook '{name}'. It comes with `pip install {distribution}`"

        with pytest.raises(ImportError, match=said):
            plugins.load_hook(name)

    def test_a_first_party_plugin_that_is_kept_out_is_no_missing_one(
        self, install: Install, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Installing it again would not help; the variables would."""
        install("tenterhook-function-controller", {"function-controller": ""})
        monkeypatch.setenv("TENTERHOOK_BLOCK_PLUGINS", "function-controller")

        with pytest.raises(ImportError, match=r"is installed and was not .* TENTERHOOK_PLUGINS"):
            plugins.load_hook("FunctionController")

    def test_a_first_party_plugin_that_is_broken_says_why(self, install: Install) -> None:
        """The cause is at hand where the name is missed."""
        install("tenterhook-model-io", {"model-io": "import not_there_at_all"})

        with pytest.warns(PluginWarning), pytest.raises(ImportError, match="not_there_at_all"):
            plugins.load_hook("ModelInputDetector")

    def test_a_typo_gets_the_nearest_name(self, install: Install) -> None:
        """As with any module attribute, and with the name that was meant."""
        install("some-plugin", {"some": declaring("TokenDetector")})

        with pytest.raises(AttributeError, match="Did you mean 'TokenDetector'"):
            plugins.load_hook("TokenDetektor")

    def test_an_unknown_name_points_to_the_list(self) -> None:
        """Where nothing comes near."""
        with pytest.raises(AttributeError, match="`tenterhook plugins list`"):
            plugins.load_hook("Zzzz")

    def test_private_names_load_nothing(self, install: Install) -> None:
        """Import machinery and debuggers ask for `__path__` and the like all the time."""
        install("some-plugin", {"some": declaring("Some")})

        with pytest.raises(AttributeError, match="__path__"):
            plugins.load_hook("__path__")

        assert "plugin_some" not in sys.modules

    def test_a_target_without_the_class_is_the_plugins_fault(self, install: Install) -> None:
        """It is an ImportError that names the plugin, and no missing attribute of ours."""
        install("some-plugin", {"some": declaring("Some", target="fractions:Nothing")})

        with pytest.raises(ImportError, match="cannot be imported: 'fractions:Nothing' is not"):
            plugins.load_hook("Some")

    def test_stores_come_the_same_way(self, install: Install) -> None:
        """`tenterhook.store` serves stores and no hooks."""
        install("a-plugin", {"a": declaring("S", kind="stores")})
        install("b-plugin", {"b": declaring("D")})

        assert plugins.load_store("S").__name__ == "Fraction"
        with pytest.raises(AttributeError, match=r"'tenterhook_store' has no attribute 'D'"):
            plugins.load_store("D")


class TestExtension:
    def test_it_imports_its_target_when_asked(self) -> None:
        """The target may be nested."""
        assert one(target="fractions:Fraction.limit_denominator").load().__name__ == (
            "limit_denominator"
        )

    @pytest.mark.parametrize("target", ["fractions", ":Fraction", "fractions:", "a-b:C", "a:B()"])
    def test_a_target_is_a_module_and_a_name(self, target: str) -> None:
        """What cannot be imported is refused when it is declared."""
        with pytest.raises(ValueError, match="not an import target"):
            one(target=target)

    @pytest.mark.parametrize("help", ["", " ", "two\nlines", "\x1b[2J", "half \udc80"])
    def test_help_is_one_line(self, help: str) -> None:
        """Lists show it beside the name."""
        with pytest.raises(ValueError, match="not one line of help"):
            Extension("One", "a:B", help)

    @pytest.mark.parametrize("name", ["", "two words", "tiny:", "1st"])
    def test_a_name_can_be_written_in_code_or_as_a_scheme(self, name: str) -> None:
        """Names are typed by people and shown in tables."""
        with pytest.raises(ValueError, match="is not a name"):
            one(name)
