"""However plugins are broken, whoever asks is served: real dist-info folders, real processes."""

import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest

from tenterhook import Extension, hookimpl, hooks
from tenterhook.plugins import (
    STRICT_VARIABLE,
    BrokenPlugins,
    MissingDependency,
    PluginManager,
    PluginWarning,
    UnknownExtension,
    default_manager,
    load_store,
    using,
)
from tenterhook.testing.fixtures import InstalledPlugins

Install = InstalledPlugins

GOOD = """
from tenterhook import Extension, hookimpl

@hookimpl
def tenterhook_{kind}():
    return [Extension({name!r}, {target!r}, "Does it.")]
"""


def good(name: str = "Good", target: str = "fractions:Fraction", kind: str = "detectors") -> str:
    """Return the source of a plugin that works."""
    return GOOD.format(name=name, target=target, kind=kind)


WORKS = good("Some")
BROKEN = {
    "import error": "import not_there_at_all",
    "import of a name": "from tenterhook import not_there_at_all",
    "syntax error": "def",
    "indentation": "  x = 1\n y = 2",
    "null bytes": "x = '\0'",
    "raises": "raise OSError('no')",
    "raises an error that cannot be shown": (
        "class E(Exception):\n    def __str__(self): raise RuntimeError\nraise E"
    ),
    "says what cannot be printed": "raise OSError('\\udc80 \\x1b[2J')",
    "raises what is no Exception": "raise BaseException('odd')",
    "raises GeneratorExit": "raise GeneratorExit",
    "exits": "import sys; sys.exit(3)",
    "exits with a message": "raise SystemExit('bye')",
    "recursion": "def f(): f()\nf()",
    "assertion": "assert False",
    "no hook": "x = 1",
    "misspelt": WORKS.replace("detectors", "detecters"),
    "wrong signature": WORKS.replace("detectors()", "detectors(model)"),
    "wants arguments": WORKS.replace("detectors()", "detectors(a, b)"),
    "hook raises": WORKS.replace("return", "return 1 / 0 #"),
    "hook exits": WORKS.replace("return", "raise SystemExit #"),
    "returns nothing": WORKS.replace("return", ""),
    "returns a generator": WORKS.replace("return", "yield"),
    "returns a string": WORKS.replace("return", "return 'Some' #"),
    "returns strings": WORKS.replace("return", "return ['Some'] #"),
    "returns a dict": WORKS.replace("return", "return {} or dict(a=1) #"),
    "returns tuples": WORKS.replace("return", "return [('a', 'b', 'c')] #"),
    "bad target": good("Some", target="fractions"),
    "bad name": good("two words"),
    "bad help": WORKS.replace("Does it.", ""),
    "name twice": WORKS.replace("return [", "return 2 * ["),
    "a later contract": "TENTERHOOK_CONTRACT = 99\n" + WORKS,
    "a contract that is no number": "TENTERHOOK_CONTRACT = 'new'\n" + WORKS,
}
CAUSES = {
    "import of a name": "cannot import name 'not_there_at_all'",
    "raises an error that cannot be shown": "E.",
    "says what cannot be printed": "OSError: \\udc80 \\x1b[2J",
    "raises what is no Exception": "BaseException: odd",
    "raises GeneratorExit": "GeneratorExit",
    "exits with a message": "SystemExit: bye",
    "recursion": "RecursionError",
    "misspelt": "Did you mean 'tenterhook_detectors'?",
    "returns a generator": "tenterhook_detectors returned a generator",
    "returns a dict": "tenterhook_detectors returned a dict",
    "a later contract": "made for version 99 of the contract, and tenterhook",
    "a contract that is no number": "made for version 'new' of the contract, and tenterhook",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_plugin_is_reported_once(install: Install, how: str) -> None:
    """By distribution, version, cause and remedy; the good ones work."""
    install("a-plugin", {"good": good()})
    install("broken-plugin", {"broken": BROKEN[how]}, version="0.3")
    install("c-plugin", {"last": good("Last")})

    manager = PluginManager()
    manager.load_entry_points()
    manager.refresh()

    assert {"Good", "Last"} <= set(manager.extensions("detectors"))
    (problem,) = manager.problems
    assert (problem.entry_point, problem.distribution, problem.version) == (
        "broken",
        "broken-plugin",
        "0.3",
    )
    assert CAUSES.get(how, "") in problem.cause
    assert "set TENTERHOOK_BLOCK_PLUGINS=broken-plugin." in problem.remedy
    assert "\n" not in str(problem)


CLASHES = {
    "a detector": (good(), "its detector 'Good' has the name of detector 'Good' of plugin 'good'"),
    "a controller": (
        good(kind="controllers"),
        "its controller 'Good' has the name of detector 'Good' of plugin 'good' (a-plugin 1.0)",
    ),
}


@pytest.mark.parametrize(("source", "cause"), CLASHES.values(), ids=CLASHES.keys())
def test_a_clash_takes_out_one_name(install: Install, source: str, cause: str) -> None:
    """All else of both plugins works, and it is reported once, and again after a refresh."""
    stores = good("Mine", kind="stores")
    install("a-plugin", {"good": good() + good("Theirs", kind="stores")})
    install("b-plugin", {"other": source + stores}, version="0.3")

    manager = PluginManager()
    assert manager.load_entry_points() == ()
    assert manager.refresh() == manager.problems

    assert list(manager.extensions("stores")) == ["Mine", "Theirs"]
    (problem,) = manager.problems
    assert (problem.entry_point, problem.distribution, problem.version, problem.clashes) == (
        "other",
        "b-plugin",
        "0.3",
        True,
    )
    assert cause in problem.cause
    assert "TENTERHOOK_BLOCK_PLUGINS=b-plugin" in problem.remedy
    assert str(problem).startswith("Plugin 'other' of b-plugin 0.3 clashes with another: its ")


class TestClash:
    """Two plugins offer the same names, of four kinds."""

    @pytest.fixture
    def clash(self, install: Install) -> Install:
        """Install both."""
        kinds = ["detectors", "stores", "loaders", "commands"]
        theirs = "".join(good(name, kind=kind) for name, kind in zip("Desc", kinds, strict=True))
        ours = "".join(
            good(name, "decimal:Decimal", kind) for name, kind in zip("Desc", kinds, strict=True)
        )
        install("aaa", {"stranger": theirs})
        install("bbb", {"ours": ours + good("Free", kind="observers")})
        return install

    def test_asking_for_it_is_an_error_that_names_both(self, clash: Install) -> None:
        """And the way out; no class is handed out in silence."""
        with pytest.warns(PluginWarning):
            manager = default_manager()

        both = r"'stranger' \(aaa 1.0\) and by plugin 'ours' \(bbb 1.0\)"
        with pytest.raises(ImportError, match=f"Hook 'D' is offered by plugin {both}"):
            from tenterhook.hooks import D  # noqa: F401
        with pytest.raises(ImportError, match=f"Store 'e' is offered by plugin {both}"):
            load_store("e")
        with pytest.raises(LookupError, match=f"Loader 's' is offered by plugin {both}"):
            manager.load("loaders", "s")
        assert list(manager.extensions("observers")) == ["Free"]
        assert len(manager.problems) == 4

    def test_blocking_either_gives_it_to_the_other(
        self, clash: Install, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In the words of the remedy."""
        for blocked, left in [("aaa", "Decimal"), ("bbb", "Fraction")]:
            monkeypatch.setenv("TENTERHOOK_BLOCK_PLUGINS", blocked)
            manager = PluginManager()

            assert manager.problems == ()
            assert manager.load("stores", "e").__name__ == left

    def test_what_the_program_registered_it_keeps(self, clash: Install) -> None:
        """It said what it means; the installed ones are reported."""
        manager = PluginManager(autoload=False)
        manager.register(SimpleNamespace(tenterhook_detectors=hookimpl(one)), "mine")

        problems = manager.load_entry_points()

        assert manager.load("detectors", "D").__name__ == "TextWrapper"
        assert [each.distribution for each in problems if "by hand" in each.cause] == [
            "aaa",
            "bbb",
        ]

    def test_it_is_gone_with_one_of_them(self, clash: Install) -> None:
        """A refresh after `pip uninstall` finds the other."""
        manager = PluginManager()
        for path in clash.site.joinpath("aaa-1.0.dist-info").iterdir():
            path.unlink()

        assert manager.refresh() == ()
        assert manager.load("stores", "e").__name__ == "Decimal"


class TestReserved:
    """A name of ours is kept for its own distribution."""

    OURS: ClassVar = {
        "a store": ("stores", "ZarrStore", "tenterhook-zarr"),
        "a loader": ("loaders", "hf", "tenterhook-transformers"),
        "a data set": ("datasets", "tiny", "tenterhook-tiny"),
        "a hook": ("detectors", "TopKSae", "tenterhook-sae"),
        "a command": ("commands", "plugins", "tenterhook-cli"),
    }

    @pytest.mark.parametrize(("kind", "name", "owner"), OURS.values(), ids=OURS)
    def test_a_stranger_is_left_out_for_that_name(
        self, install: Install, kind: str, name: str, owner: str
    ) -> None:
        """Whichever sorts first; ours works, and so does all else of the stranger."""
        install("aaa", {"first": good(name, kind=kind) + good("Free", kind="observers")})
        install(owner, {"ours": good(name, "decimal:Decimal", kind)})
        install("zzz", {"last": good(name, kind=kind)})

        manager = PluginManager()

        assert manager.load(kind, name).__name__ == "Decimal"
        assert list(manager.extensions("observers")) == ["Free"]
        assert [each.distribution for each in manager.problems] == ["aaa", "zzz"]
        for each in manager.problems:
            assert f"{name!r} has a name that is reserved for {owner}. All else" in str(each)
            assert f"TENTERHOOK_BLOCK_PLUGINS={each.distribution}" in each.remedy

    def test_a_controller_has_the_name_of_a_detector_of_ours(self, install: Install) -> None:
        """`tenterhook.hooks` serves both kinds, so a name of one is kept from the other."""
        install("aaa", {"first": good("ModelInputDetector", kind="controllers")})

        (problem,) = PluginManager().problems

        assert "'ModelInputDetector' has a name that is reserved" in problem.cause

    def test_where_ours_is_not_installed_the_name_says_what_to_install(
        self, install: Install
    ) -> None:
        """And serves nobody else."""
        install("aaa", {"first": good("ZarrStore", kind="stores")})
        manager = PluginManager()

        assert not manager.extensions("stores")
        with pytest.raises(UnknownExtension, match="comes with `pip install tenterhook-zarr`"):
            manager.load("stores", "ZarrStore")
        with (
            pytest.warns(PluginWarning, match="reserved for tenterhook-zarr"),
            pytest.raises(ImportError, match="`pip install tenterhook-zarr`"),
        ):
            load_store("ZarrStore")

    def test_what_the_program_registered_it_keeps(self, install: Install) -> None:
        """It said what it means, of our names too."""
        install("tenterhook-sae", {"ours": good("TopKSae")})
        manager = PluginManager(autoload=False)
        mine = [Extension("TopKSae", "textwrap:TextWrapper", "Does it.")]
        manager.register(SimpleNamespace(tenterhook_detectors=hookimpl(lambda: mine)), "mine")

        (problem,) = manager.load_entry_points()

        assert manager.load("detectors", "TopKSae").__name__ == "TextWrapper"
        assert "by hand" in problem.cause


class TestPrinting:
    """What a plugin prints at import is no part of what a program writes to stdout."""

    def test_it_goes_to_stderr(self, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
        """When it is imported and when it is asked; stdout is what it was before."""
        loud = good().replace("    return", "    print('asked')\n    return")
        install("a-plugin", {"good": f"print('imported')\n{loud}"})
        stdout = sys.stdout

        PluginManager()
        print("ours")

        assert sys.stdout is stdout
        assert capsys.readouterr() == ("ours\n", "imported\nasked\n")

    def test_what_keeps_stdout_prints_there_later(
        self, install: Install, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """As a handler of `logging` does that a plugin makes at import."""
        install("a-plugin", {"good": "import sys\nout = sys.stdout\n" + good()})

        PluginManager()
        sys.modules["plugin_good"].out.write("later")

        assert capsys.readouterr() == ("later", "")

    def test_other_threads_print_where_they_did(
        self, install: Install, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """While a plugin is imported."""
        source = (
            "import threading\nthread = threading.Thread(target=print, args=('elsewhere',))\n"
            "thread.start()\nthread.join()\nprint('here')\n"
        )
        install("a-plugin", {"good": source + good()})

        PluginManager()

        assert capsys.readouterr() == ("elsewhere\n", "here\n")


def one() -> list[Extension]:
    """Declare a detector by hand."""
    return [Extension("D", "textwrap:TextWrapper", "Does it.")]


def test_two_plugins_with_one_name_both_work(install: Install) -> None:
    """A remedy names the distribution, which is one."""
    for number in "ab":
        site = install(f"{number}-plugin", {"same": ""})
        site.joinpath(f"plugin_{number}.py").write_text(good(f"Good{number}") + good(kind="stores"))
        site.joinpath(f"{number}_plugin-1.0.dist-info/entry_points.txt").write_text(
            f"[tenterhook.plugins]\nsame = plugin_{number}\n"
        )

    manager = PluginManager()

    assert list(manager.extensions("detectors")) == ["Gooda", "Goodb"]
    (problem,) = manager.problems
    assert problem.remedy.endswith("=a-plugin or TENTERHOOK_BLOCK_PLUGINS=b-plugin.")


def test_a_broken_plugin_whose_name_another_has_is_blocked_alone(install: Install) -> None:
    """By its distribution's name."""
    install("a-plugin", {"same": good()})
    install("b-plugin", {"same": "1 / 0"})

    problems = PluginManager().problems

    assert all("ZeroDivisionError" in each.cause for each in problems)
    assert problems[-1].remedy.endswith("or set TENTERHOOK_BLOCK_PLUGINS=b-plugin.")


class TestStale:
    def test_metadata_that_names_a_module_that_is_gone(self, install: Install) -> None:
        """As when an editable install's module was renamed; the remedy installs it again."""
        site = install("old-plugin", {"old": good()})
        site.joinpath("plugin_old.py").unlink()

        (problem,) = PluginManager().problems

        assert problem.cause == "ModuleNotFoundError: No module named 'plugin_old'."
        assert "See `python -c 'import plugin_old'`; update it, install it again" in problem.remedy

    def test_an_attribute_that_is_gone(self, install: Install) -> None:
        """An entry point may name an object in a module."""
        site = install("old-plugin", {"old": good()})
        site.joinpath("old_plugin-1.0.dist-info/entry_points.txt").write_text(
            "[tenterhook.plugins]\nold = plugin_old:plugin\n"
        )

        (problem,) = PluginManager().problems

        assert "module 'plugin_old' has no attribute 'plugin'" in problem.cause

    def test_one_folder_twice_on_the_path_is_one_plugin(
        self, install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As `lib` and `lib64` are; nothing is reported."""
        site = install("a-plugin", {"good": good()})
        tmp_path.joinpath("again").symlink_to(site)
        install.paths.append(str(tmp_path / "again"))

        manager = PluginManager()

        assert list(manager.extensions("detectors")) == ["Good"]
        assert manager.problems == ()


class TestStrict:
    def test_what_is_wrong_raises(self, install: Install) -> None:
        """All of it at once, when the others are loaded."""
        install("a-plugin", {"bad": "1 / 0"})
        install("b-plugin", {"good": good()})
        install("c-plugin", {"worse": "def"})
        manager = PluginManager(autoload=False, strict=True)

        with pytest.raises(
            BrokenPlugins, match=r"'bad' of a-plugin .* 'worse' of c-plugin"
        ) as error:
            manager.load_entry_points()

        assert [problem.entry_point for problem in error.value.problems] == ["bad", "worse"]
        assert list(manager.extensions("detectors")) == ["Good"]

    def test_nothing_wrong_raises_nothing(self, install: Install) -> None:
        """A good plugin passes."""
        install("b-plugin", {"good": good()})

        assert PluginManager(strict=True).problems == ()

    def test_the_variable_makes_the_default_manager_strict(
        self, install: Install, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """For continuous integration; each use raises."""
        install("a-plugin", {"bad": "1 / 0"})
        monkeypatch.setenv(STRICT_VARIABLE, "1")

        for _ in range(2):
            with pytest.raises(BrokenPlugins, match="ZeroDivisionError"):
                default_manager()

    @pytest.mark.parametrize("value", ["", "0"])
    def test_the_variable_may_be_off(
        self, install: Install, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        """It warns as usual then."""
        install("a-plugin", {"bad": "1 / 0"})
        monkeypatch.setenv(STRICT_VARIABLE, value)

        with pytest.warns(PluginWarning):
            default_manager()


class TestMissingDependency:
    """A package that is missing surfaces when what needs it is asked for, and only then."""

    HEAVY = "import a_heavy_package\nclass Heavy: pass\n"

    def lay(self, install: Install, requires: str = "", needs: str = "") -> PluginManager:
        """Install a plugin whose detector imports what is not there."""
        source = good("Heavy", "heavy_code:Heavy").replace(
            '"Does it."', f'"Does it.", needs={needs!r}'
        )
        site = install("some-plugin", {"some": source})
        site.joinpath("heavy_code.py").write_text(self.HEAVY)
        metadata = site / "some_plugin-1.0.dist-info/METADATA"
        metadata.write_text(f"Name: some-plugin\nVersion: 1.0\n{requires}")
        return PluginManager()

    def test_it_is_listed_without_it(self, install: Install) -> None:
        """Nothing is wrong with a plugin that nobody asks."""
        manager = self.lay(install)

        assert list(manager.extensions("detectors")) == ["Heavy"]
        assert manager.problems == ()

    @pytest.mark.parametrize(
        ("requires", "needs", "command"),
        [
            ("", "", "pip install a-heavy-package"),
            ("Requires-Dist: A-Heavy-Package >=2\n", "", "pip install A-Heavy-Package"),
            (
                "Requires-Dist: a-heavy_package>=2; extra == 'plots'\n",
                "",
                "pip install 'some-plugin[plots]'",
            ),
            ("", "heavy==3", "pip install heavy==3"),
        ],
        ids=["unknown", "required", "of an extra", "as the plugin says"],
    )
    def test_the_error_has_the_pip_command(
        self, install: Install, requires: str, needs: str, command: str
    ) -> None:
        """From the extension, else from what the distribution requires."""
        manager = self.lay(install, requires, needs)

        with pytest.raises(MissingDependency) as error:
            manager.load("detectors", "Heavy")

        assert isinstance(error.value, ImportError)
        assert str(error.value) == (
            "Detector 'Heavy' of plugin 'some' (some-plugin 1.0) needs the module "
            f"'a_heavy_package', which is not installed: `{command}`."
        )

    def test_it_is_an_import_error_where_it_is_imported(self, install: Install) -> None:
        """`from tenterhook.hooks import Heavy` says the same."""
        self.lay(install)

        with pytest.raises(ImportError, match="`pip install a-heavy-package`"):
            from tenterhook.hooks import Heavy  # noqa: F401

    def test_another_error_of_the_import_names_the_plugin(self, install: Install) -> None:
        """It is the plugin's own, unchanged, with a note."""
        site = install("some-plugin", {"some": good("Heavy", "heavy_code:Heavy")})
        site.joinpath("heavy_code.py").write_text("None.nothing")

        with pytest.raises(AttributeError, match="'NoneType'") as error:
            PluginManager().load("detectors", "Heavy")

        (note,) = error.value.__notes__
        assert "detector 'Heavy' of plugin 'some' (some-plugin 1.0)" in note

    def test_an_error_of_the_call_names_the_plugin(self, install: Install) -> None:
        """What is made of a name raises what it raises, with a note; errors of ours need none."""
        site = install("some-plugin", {"some": good("Heavy", "heavy_code:Heavy")})
        code = """
        from tenterhook.errors import TenterhookError

        class Told(TenterhookError, ValueError):
            pass

        class Heavy:
            def __init__(self, told):
                raise Told("as told") if told else ValueError("no such table")
        """
        site.joinpath("heavy_code.py").write_text(textwrap.dedent(code))
        heavy = PluginManager().extensions("detectors")["Heavy"]

        with pytest.raises(ValueError, match="no such table") as error:
            heavy.call(told=False)
        with pytest.raises(ValueError, match="as told") as told:
            heavy.call(told=True)

        assert error.value.__notes__ == [
            "It was raised by detector 'Heavy' of plugin 'some' (some-plugin 1.0)."
        ]
        assert not hasattr(told.value, "__notes__")


class TestImport:
    def test_an_import_that_exits_is_an_import_error(self, install: Install) -> None:
        """The program that asks goes on."""
        site = install("exits", {"exits": good("Exits", "plugin_exits_code:Exits")})
        site.joinpath("plugin_exits_code.py").write_text("import sys; sys.exit(3)")

        with pytest.raises(ImportError, match=r"Detector 'Exits' of .* imported: SystemExit: 3"):
            from tenterhook.hooks import Exits  # noqa: F401

    def test_asking_whether_it_is_there_is_no_import(self, install: Install) -> None:
        """`hasattr` and `getattr` work as with any module."""
        assert not hasattr(hooks, "TokenDetektor")
        assert getattr(hooks, "TokenDetektor", None) is None

    def test_submodules_are_imported_without_plugins(self) -> None:
        """They are no names of plugins."""
        code = "import sys\nfrom tenterhook.hooks import utils\nprint(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

        assert done.returncode == 0, done.stderr
        assert not [name for name in done.stdout.split() if name.startswith("tenterhook_")]


class TestRefresh:
    def test_a_plugin_installed_since_is_found_at_once(self, install: Install) -> None:
        """A notebook that runs pip needs neither a new process nor a call."""
        assert not default_manager().extensions("detectors")
        install("new-plugin", {"new": good("New")})

        from tenterhook.hooks import New

        assert New.__name__ == "Fraction"

    def test_one_that_was_repaired_is_tried_again(self, install: Install) -> None:
        """And its problem is gone."""
        site = install("a-plugin", {"bad": "1 / 0"})
        manager = PluginManager()
        assert len(manager.problems) == 1
        site.joinpath("plugin_bad.py").write_text(good("Repaired"))

        assert manager.refresh() == ()
        assert list(manager.extensions("detectors")) == ["Repaired"]
        assert not manager.problems

    def test_one_that_was_uninstalled_is_gone(self, install: Install) -> None:
        """Its names are free."""
        site = install("a-plugin", {"good": good()})
        manager = PluginManager()
        for path in site.joinpath("a_plugin-1.0.dist-info").iterdir():
            path.unlink()

        manager.refresh()

        assert not manager.extensions("detectors")

    def test_what_was_registered_by_hand_stays(self, install: Install) -> None:
        """It was never installed."""
        site = install("a-plugin", {"good": good()})
        manager = PluginManager(autoload=False)
        sys.path.insert(0, str(site))
        import plugin_good  # type: ignore[import-not-found]

        manager.register(plugin_good, "mine")
        install("b-plugin", {"other": good("Other")})

        with using(manager):  # it loads nothing by itself
            assert not hasattr(hooks, "Other")
        manager.unregister("mine")
        manager.refresh()
        assert list(manager.extensions("detectors")) == ["Good", "Other"]


class TestUsing:
    def test_another_manager_serves_names_for_a_block(self, install: Install) -> None:
        """And the one before it does again."""
        install("a-plugin", {"good": good()})
        empty = PluginManager(autoload=False)

        with using(empty):
            assert default_manager() is empty
            assert not hasattr(hooks, "Good")

        assert hooks.Good.__name__ == "Fraction"


@pytest.fixture
def hundred(install: Install) -> Path:
    """Install a hundred plugins, one of which works."""
    ways = list(BROKEN.values())
    for number in range(99):
        name, source = f"p{number:02}", ways[number % len(ways)]
        if source == WORKS or "'Some'" in source:
            source = source.replace("'Some'", f"'Some{number}'")
        install(f"plugin-{name}", {name: f"n = {number}\n{source}"})
    return install("a-good-one", {"good": good()})


def listed(site: Path) -> "subprocess.CompletedProcess[str]":
    """List plugins in a process that sees those: detectors, problems, and what it imported."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    code = """
import json, sys
from tenterhook.plugins import PluginManager
manager = PluginManager()
print(json.dumps(list(manager.extensions("detectors"))))
print(json.dumps([each.entry_point for each in manager.problems]))
print(*{name.partition(".")[0] for name in sys.modules})"""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path, "TENTERHOOK_BLOCK_PLUGINS": ""}
        | {"TENTERHOOK_PLUGINS": ",".join(["good", *(f"p{number:02}" for number in range(99))])},
    )


def test_with_99_broken_plugins_the_good_one_works(hundred: Path) -> None:
    """Each of the others is reported once, and nothing heavy is imported."""
    done = listed(hundred)

    assert done.returncode == 0, done.stderr
    found, reported, modules = done.stdout.splitlines()
    assert json.loads(found) == ["Good"]
    assert json.loads(reported) == [f"p{number:02}" for number in range(99)]
    assert not {"torch", "numpy", "transformers", "click"} & set(modules.split())


def test_a_hundred_plugins_are_listed_in_half_a_second(install: Install) -> None:
    """Beyond the start of the interpreter, in time of the processor: others may be busy too."""
    for number in range(99):
        install(f"plugin-p{number:02}", {f"p{number:02}": good(f"D{number}")})
    site = install("a-good-one", {"good": good()})

    def seconds(run: Callable[[], object]) -> float:
        before = os.times()
        run()
        after = os.times()
        return sum(after[2:4]) - sum(before[2:4])  # of the processes that were waited for

    start = min(seconds(lambda: subprocess.run([sys.executable, "-c", ""])) for _ in range(4))
    assert len(json.loads(listed(site).stdout.splitlines()[0])) == 100
    taken = min(seconds(lambda: listed(site)) for _ in range(5)) - start

    assert taken < 0.5
