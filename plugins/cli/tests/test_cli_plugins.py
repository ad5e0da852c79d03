"""`tenterhook plugins info`, `doctor`, `new` and `check`."""

import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from tenterhook.hookspecs import KINDS
from tenterhook.testing.fixtures import InstalledPlugins
from tenterhook_cli.check import CONTRACTS
from tenterhook_cli.scaffold import BEGINNINGS, hook_of

Th = Callable[..., tuple[object, str, str]]

SOURCE = """
from tenterhook import Extension, hookimpl

@hookimpl
def tenterhook_{kind}():
    return [Extension({name!r}, {target!r}, "Does it."{more})]
"""


ASKED = """
import os
import re
from tenterhook import hookimpl

@hookimpl
def tenterhook_stores():
    {}
    return []
"""


def source(name: str, target: str, kind: str = "detectors", more: str = "") -> str:
    """Return the source of a plugin's module."""
    return SOURCE.format(name=name, target=target, kind=kind, more=more)


CODE = """
from typing import Literal
import torch
from tenterhook.hooks import Controller, Detector

class Keeps(Detector):
    def __init__(self, layer_signature: str | int | None = None, *,
                 dtype: torch.dtype | None = None, how: Literal["a", "b"] = "a", deep: int = 2):
        super().__init__(layer_signature=layer_signature)
        self.dtype, self.how, self.deep = dtype, how, deep
    def process_activations(self, module, input, output):
        pass

class Adds(Controller):
    def __init__(self, layer_signature, vector):
        super().__init__(layer_signature=layer_signature)
        self.vector = vector
    def modify_activations(self, module, inputs, output):
        return output + self.vector.to(output.dtype)

class InPlace(Detector):
    def process_activations(self, module, input, output):
        self.tensor_metadata["seen"] = output

def adds():
    return Adds("inner", torch.ones(8))
"""


@pytest.fixture
def code(install: InstalledPlugins) -> None:
    """Install the module that targets name."""
    install.site.joinpath("plugin_code.py").write_text(CODE)


class TestInfo:
    def test_parameters_have_types_and_defaults(
        self, install: InstalledPlugins, code: None, th: Th
    ) -> None:
        """As the signature says."""
        install("some", {"some": source("Keeps", "plugin_code:Keeps")})

        _, out, _ = th("plugins", "info", "Keeps")
        _, as_json, _ = th("plugins", "info", "Keeps", "--json")

        lines = [" ".join(line.split()) for line in out.splitlines()]
        assert "parameter dtype: dtype | None = None" in lines
        assert "parameter how: Literal['a', 'b'] = 'a'" in lines
        assert json.loads(as_json)[0]["parameters"][-1] == {
            "name": "deep",
            "type": "int",
            "default": "2",
            "required": False,
        }

    def test_what_every_hook_takes_is_shown_as_it_is_written(
        self, install: InstalledPlugins, code: None, th: Th
    ) -> None:
        """By the names that users import, and words for choices."""
        install("some", {"some": source("InPlace", "plugin_code:InPlace")})

        out = " ".join(th("plugins", "info", "some")[1].split())

        assert "parameter hook_type: HookType | str = 'forward'" in out

    def test_what_is_required_says_so(self, install: InstalledPlugins, code: None, th: Th) -> None:
        """Without a default."""
        install("some", {"some": source("Adds", "plugin_code:Adds", "controllers")})

        assert "vector: -  required" in th("plugins", "info", "some")[1]

    def test_a_command_has_its_own(self, install: InstalledPlugins, th: Th) -> None:
        """The arguments and options of click."""
        install("some", {"some": source("greet", "plugin_greeting:greet", "commands")})
        install.site.joinpath("plugin_greeting.py").write_text(
            "import click\n@click.command()\n@click.argument('who')\n"
            "@click.option('--times', type=int, default=2)\ndef greet(who, times): pass\n"
        )

        out = th("plugins", "info", "greet")[1]

        assert "who: text  required" in out
        assert "--times: integer  = 2" in out

    def test_what_cannot_be_imported_is_shown_all_the_same(
        self, install: InstalledPlugins, th: Th
    ) -> None:
        """With the reason."""
        install("some", {"some": source("Keeps", "plugin_code:Keeps")})
        install.site.joinpath("plugin_code.py").write_text("import not_there_at_all")

        status, out, _ = th("plugins", "info", "Keeps")

        assert status == 0
        assert "cannot be read: MissingDependency" in out
        assert "`pip install not-there-at-all`" in out

    def test_what_plugins_print_is_no_json(self, install: InstalledPlugins, th: Th) -> None:
        """It goes to stderr, when plugins are listed and when one is imported."""
        install.site.joinpath("plugin_loud.py").write_text("print('loud')\nclass Loud: pass\n")
        install("some", {"some": "print('hello')\n" + source("Loud", "plugin_loud:Loud")})

        status, out, err = th("plugins", "info", "Loud", "--json")

        assert (status, json.loads(out)[0]["name"]) == (0, "Loud")
        assert err.split() == ["hello", "loud"]

    def test_what_a_plugins_thread_prints_is_no_json(self, install: InstalledPlugins) -> None:
        """It goes to stderr, whether it was imported just now or the command is long done."""
        code = """
        import threading, time
        class Loud: pass
        main = threading.main_thread()
        def print_until_the_end():
            while main.is_alive():
                print("loud")
                time.sleep(0.001)
            print("last")
        threading.Thread(target=print_until_the_end).start()
        time.sleep(0.05)
        """
        install.site.joinpath("plugin_loud.py").write_text(textwrap.dedent(code))
        install("some", {"some": source("Loud", "plugin_loud:Loud")})
        command = [sys.executable, "-m", "tenterhook", "plugins", "info", "Loud", "--json"]
        path = os.pathsep.join([str(install.site), os.environ.get("PYTHONPATH", "")])

        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
        )

        assert json.loads(done.stdout)[0]["name"] == "Loud"
        assert (done.stderr.split()[0], done.stderr.split()[-1]) == ("loud", "last")

    def test_a_broken_plugin_says_what_is_wrong(self, install: InstalledPlugins, th: Th) -> None:
        """And no more."""
        install("some", {"some": "1 / 0"})

        status, _, err = th("plugins", "info", "some")

        assert status == 2
        assert "ZeroDivisionError" in err


class TestDoctor:
    @pytest.fixture(autouse=True)
    def seen_by_others(self, install: InstalledPlugins, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have the processes that are started find the plugins too."""
        path = os.pathsep.join([str(install.site), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)

    def test_nothing_is_wrong(self, install: InstalledPlugins, th: Th) -> None:
        """Each plugin with its time."""
        install("some", {"some": source("Keeps", "plugin_code:Keeps")})

        status, out, _ = th("plugins", "doctor")

        assert status == 0
        assert out.startswith("some  ")
        assert " ms  some 1.0\n" in out
        assert out.endswith("Nothing is wrong.\n")

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("import os; os._exit(3)", "ends the process (code 3) when it is loaded"),
            (ASKED.format("os._exit(4)"), "ends the process (code 4) when it is loaded"),
            (ASKED.format("__import__('numpy')"), "imports numpy when plugins are listed"),
            ("import os; os.kill(os.getpid(), 11)", "ends the process (signal 11)"),
            ("1 / 0", "was left out: ZeroDivisionError"),
            ("import fake_numpy as numpy", "was left out: ModuleNotFoundError"),
            ("import time; time.sleep(0.15)\n", "s to import, which every list of plugins waits"),
        ],
        ids=[
            "exits",
            "exits when asked",
            "is heavy when asked",
            "crashes",
            "raises",
            "misses",
            "is slow",
        ],
    )
    def test_a_broken_plugin_is_found(
        self, install: InstalledPlugins, th: Th, text: str, said: str
    ) -> None:
        """Even one that would take this process along."""
        good = source("Keeps", "plugin_code:Keeps")
        install("bad", {"bad": f"{text}\n{good.replace('Keeps', 'Bad')}"})
        install("good", {"good": good})

        status, out, _ = th("plugins", "doctor")

        assert status == 1
        assert said in out
        assert [line.split()[0] for line in out.splitlines()[:2]] == ["bad", "good"]
        assert "good 1.0 was left out" not in out

    def test_what_is_printed_late_is_no_crash(self, install: InstalledPlugins, th: Th) -> None:
        """Of a plugin that prints when the process ends, and whenever it can."""
        talks = "import atexit\nprint('hello')\natexit.register(print, 'bye')\n"
        install("some", {"some": talks + source("Keeps", "plugin_code:Keeps")})

        status, out, _ = th("plugins", "doctor", "--json")

        assert (status, json.loads(out)["problems"]) == (0, [])

    def test_heavy_imports_are_named(self, install: InstalledPlugins, th: Th) -> None:
        """Which every list of plugins would wait for."""
        install("some", {"some": "import numpy\n" + source("Keeps", "plugin_code:Keeps")})

        status, out, _ = th("plugins", "doctor", "--json")

        assert status == 1
        (found,) = json.loads(out)["plugins"]
        assert found["heavy"] == ["numpy"]
        assert "imports numpy when plugins are listed" in found["complaints"][0]

    def test_stale_metadata_is_named(
        self, install: InstalledPlugins, th: Th, tmp_path: Path
    ) -> None:
        """An editable install whose pyproject.toml has moved on."""
        install("some", {"some": source("Keeps", "plugin_code:Keeps")})
        folder = tmp_path / "sources"
        folder.mkdir()
        url = {"url": folder.as_uri(), "dir_info": {"editable": True}}
        info = install.site / "some-1.0.dist-info/direct_url.json"
        info.write_text(json.dumps(url))
        for pyproject, said in [
            ('entry-points."tenterhook.plugins".some = "moved.plugin"', "names 'plugin_some'"),
            ("entry-points.other.some = 'moved'", "its pyproject.toml names nothing so called"),
            (
                'version = "2"\nentry-points."tenterhook.plugins".some = "plugin_some"',
                "pyproject.toml says version '2'",
            ),
        ]:
            folder.joinpath("pyproject.toml").write_text(f"[project]\n{pyproject}\n")

            status, out, _ = th("plugins", "doctor")

            assert status == 1
            assert said in out
            assert f"pip install -e {folder}" in out

    @pytest.mark.parametrize(
        "pyproject",
        [
            "project = 3",
            "[project]\nentry-points = [1]",
            "\0",
            "[",
            'build-system.requires = ["setuptools"]',
            '[project]\ndynamic = ["entry-points", "version"]',
            'tool.poetry.plugins."tenterhook.plugins".some = "plugin_some"',
        ],
    )
    def test_a_pyproject_that_does_not_say_is_no_complaint(
        self, install: InstalledPlugins, th: Th, tmp_path: Path, pyproject: str
    ) -> None:
        """It makes no sense, or another file, or another table of it, has the entry points."""
        install("some", {"some": source("Keeps", "plugin_code:Keeps")})
        url = {"url": tmp_path.as_uri(), "dir_info": {"editable": True}}
        install.site.joinpath("some-1.0.dist-info/direct_url.json").write_text(json.dumps(url))
        tmp_path.joinpath("pyproject.toml").write_text(pyproject)

        status, out, _ = th("plugins", "doctor")

        assert status == 0
        assert out.startswith("some  ")

    def test_an_editable_install_whose_folder_is_gone(
        self, install: InstalledPlugins, th: Th, tmp_path: Path
    ) -> None:
        """It is named, with the folder."""
        install("some", {"some": "1 / 0"})
        url = {"url": (tmp_path / "gone").as_uri(), "dir_info": {"editable": True}}
        install.site.joinpath("some-1.0.dist-info/direct_url.json").write_text(json.dumps(url))

        out = th("plugins", "doctor")[1]

        assert f"is stale: its folder '{tmp_path / 'gone'}' is gone. Uninstall it." in out

    @pytest.mark.parametrize(
        "said",
        [
            "[]",
            '{"url": 3, "dir_info": {"editable": 1}}',
            '{"url": "file:///\\u001b[2J", "dir_info": {"editable": 1}}',
            '{"url": "file:///%00", "dir_info": {"editable": 1}}',
            "{",
        ],
    )
    def test_an_origin_that_makes_no_sense_ends_nothing(
        self, install: InstalledPlugins, th: Th, said: str
    ) -> None:
        """Of an editable install; pip wrote it, or somebody else."""
        install("some", {"some": "1 / 0"})
        install.site.joinpath("some-1.0.dist-info/direct_url.json").write_text(said)

        status, out, _ = th("plugins", "doctor")

        assert status == 1
        assert all(line.isprintable() for line in out.splitlines())
        assert "ZeroDivisionError" in out

    def test_clashes_are_named(self, install: InstalledPlugins, th: Th) -> None:
        """Two plugins with one name."""
        for name in ("one", "two"):
            install(name, {name: source("Keeps", "plugin_code:Keeps")})

        status, out, _ = th("plugins", "doctor")

        assert status == 1
        assert "its detector 'Keeps' has the name of detector 'Keeps' of plugin 'one'" in out

    def test_metadata_that_is_there_twice_is_named(self, install: InstalledPlugins, th: Th) -> None:
        """As an uninstaller leaves it, in any spelling; the one that is found first is loaded."""
        install("some-plugin", {"some": source("Keeps", "plugin_code:Keeps")}, version="1.0")
        install("Some_Plugin", {"some": source("Keeps", "plugin_code:Keeps")}, version="0.9")

        status, out, _ = th("plugins", "doctor")

        assert status == 1
        assert re.search(r"Plugin 'some' of Some[-_]Plugin \S+ is never loaded: ", out, re.I)
        assert re.search(r"after that of \S+ in '.*Run `pip uninstall Some[-_]Plugin`", out, re.I)

    def test_one_folder_twice_on_the_path_is_no_second_copy(
        self, install: InstalledPlugins, th: Th, tmp_path: Path
    ) -> None:
        """Nor the `.egg-info` that setuptools leaves beside an editable install's sources."""
        site = install("some", {"some": source("Keeps", "plugin_code:Keeps")})
        tmp_path.joinpath("again").symlink_to(site)
        info = tmp_path / "sources" / "some.egg-info"
        info.mkdir(parents=True)
        info.joinpath("PKG-INFO").write_text("Name: some\nVersion: 1.0\n")
        entry_points = (site / "some-1.0.dist-info/entry_points.txt").read_text()
        info.joinpath("entry_points.txt").write_text(entry_points)
        install.paths += [str(tmp_path / "again"), str(tmp_path / "sources")]

        status, out, _ = th("plugins", "doctor")

        assert (status, out.splitlines()[1:]) == (0, ["Nothing is wrong."])

    def test_plugins_of_one_name_are_named(self, install: InstalledPlugins, th: Th) -> None:
        """They both work, and a variable that names one names both."""
        for name in ("one", "two"):
            install(name, {"same": source("Keeps", "plugin_code:Keeps")})
        install.site.joinpath("plugin_other.py").write_text(source("Other", "plugin_code:Keeps"))
        install.site.joinpath("two-1.0.dist-info/entry_points.txt").write_text(
            "[tenterhook.plugins]\nsame = plugin_other\n"
        )

        status, out, _ = th("plugins", "doctor")

        assert status == 1
        assert "- Plugin 'same' of two 1.0 is called as one of one is. Both work, and " in out
        assert "TENTERHOOK_BLOCK_PLUGINS=same keeps out both. Name a distribution there, as " in out

    def test_a_lethal_plugin_hides_none_of_its_name(
        self, install: InstalledPlugins, th: Th
    ) -> None:
        """The other is loaded and found broken."""
        install("one", {"same": "import os; os._exit(3)"})
        install("two", {"other": "1 / 0"})
        install.site.joinpath("two-1.0.dist-info/entry_points.txt").write_text(
            "[tenterhook.plugins]\nsame = plugin_other\n"
        )

        status, out, _ = th("plugins", "doctor")

        assert status == 1
        assert "when it is loaded. Uninstall it, or set TENTERHOOK_BLOCK_PLUGINS=one." in out
        assert "Plugin 'same' of two 1.0 was left out: ZeroDivisionError" in out

    def test_what_is_blocked_is_not_imported(
        self, install: InstalledPlugins, th: Th, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is listed as kept out."""
        install("bad", {"bad": "1 / 0"})
        monkeypatch.setenv("TENTERHOOK_BLOCK_PLUGINS", "bad")

        assert th("plugins", "doctor")[:2] == (0, "bad  kept out  bad 1.0\nNothing is wrong.\n")


def test_a_list_that_is_kept_empty_says_by_what(
    install: InstalledPlugins, th: Th, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would be no help to install more."""
    install("some", {"some": source("Keeps", "plugin_code:Keeps")})
    monkeypatch.setenv("TENTERHOOK_PLUGINS", "")

    assert th("plugins", "list") == (
        0,
        "",
        "No plugins are loaded. See TENTERHOOK_PLUGINS in the environment.\n",
    )


class TestNew:
    @pytest.mark.parametrize("kind", BEGINNINGS)
    @pytest.mark.parametrize("name", ["my-thing", "tenterhook-3d"])
    def test_it_writes_a_distribution(self, th: Th, tmp_path: Path, kind: str, name: str) -> None:
        """Whose files compile, and are those that are printed."""
        status, out, err = th("plugins", "new", name, "--kind", kind, "--out", str(tmp_path))

        assert status == 0
        written = sorted(str(path) for path in tmp_path.rglob("*") if path.is_file())
        assert sorted(out.split()) == written
        assert f"pip install -e '{tmp_path}/{name}[test]'" in err
        for path in tmp_path.rglob("*.py"):
            compile(path.read_text(), path, "exec")

    def test_every_kind_can_be_begun(self, th: Th) -> None:
        """`--help` lists them, and so does the error about another."""
        assert {hook_of(kind) for kind in BEGINNINGS} == set(KINDS)

        assert f"[{'|'.join(BEGINNINGS)}]" in th("plugins", "new", "--help")[1]
        status, _, err = th("plugins", "new", "mine", "--kind", "detectors")

        assert status == 2
        assert "'detectors' is not one of 'detector', " in err
        assert all(repr(kind) in err for kind in BEGINNINGS)

    def test_words_of_ours_are_kept_free(self, th: Th, tmp_path: Path) -> None:
        """Where a plugin is asked for by a word, its name would be ours."""
        given = ("layers", "--kind", "command", "--out", str(tmp_path))
        status, _, err = th("plugins", "new", *given)

        assert status == 2
        assert "would offer 'layers', which tenterhook-cli has; try my-layers" in err
        assert list(tmp_path.iterdir()) == []

    def test_a_dry_run_writes_nothing(self, th: Th, tmp_path: Path) -> None:
        """It says what would be written."""
        given = ("--kind", "store", "--out", str(tmp_path), "--dry-run")

        assert "my-store/pyproject.toml" in th("plugins", "new", "my-store", *given)[1]
        assert list(tmp_path.iterdir()) == []

    def test_nothing_is_written_over(self, th: Th, tmp_path: Path) -> None:
        """A folder that is there stays what it was."""
        tmp_path.joinpath("mine").mkdir()

        status, _, err = th("plugins", "new", "mine", "--kind", "store", "--out", str(tmp_path))

        assert status == 2
        assert "is there already" in err
        assert list(tmp_path.joinpath("mine").iterdir()) == []

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("numpy", "numpy is installed; try numpy-store"),
            ("NumPy", "numpy is installed; try NumPy-store"),
            ("PyYAML", "PyYAML is installed; try PyYAML-store"),
            ("yaml", "it is installed, in "),
            ("_pytest", "cannot name a distribution"),
            ("py", "it is installed, in "),
            ("Json", "it is Python's own; try Json-store"),
            ("lambda", "it is a word of Python's"),
            ("Tenterhook_Zarr", "it is a plugin of tenterhook's own"),
            ("tenterhook", "it is what plugins import"),
        ],
    )
    def test_names_that_are_taken(self, th: Th, tmp_path: Path, name: str, said: str) -> None:
        """By what is installed, by Python, or by us, in any spelling; the line says by whom."""
        status, _, err = th("plugins", "new", "--kind", "store", "--out", str(tmp_path), "--", name)

        assert status == 2
        assert said in err
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        "name", ["", "../x", "a b", "1st", "-x", "x" * 51, "torch", "json", "zarr", "memory"]
    )
    def test_names_that_cannot_be(self, th: Th, tmp_path: Path, name: str) -> None:
        """They would leave the folder, or hide another package, or a name of ours."""
        status, _, err = th("plugins", "new", "--kind", "store", "--out", str(tmp_path), "--", name)

        assert status == 2
        assert any(
            said in err for said in ("cannot name a distribution", "which is taken", "would offer")
        )
        assert list(tmp_path.iterdir()) == []


@pytest.mark.matrix(sample=6)
class TestCheck:
    @pytest.fixture(autouse=True)
    def seen_by_others(
        self, install: InstalledPlugins, monkeypatch: pytest.MonkeyPatch, code: None
    ) -> None:
        """Have the process that runs the tests find the plugins too."""
        path = os.pathsep.join([str(install.site), os.environ.get("PYTHONPATH", "")])
        monkeypatch.setenv("PYTHONPATH", path)

    def test_contracts_are_run(self, install: InstalledPlugins, th: Th) -> None:
        """Of each extension; an example makes what needs arguments."""
        example = ", example='plugin_code:adds'"
        keeps = source("Keeps", "plugin_code:Keeps")
        adds = source("Adds", "plugin_code:Adds", "controllers", example)
        install("both", {"one": keeps, "two": adds})

        status, out, _ = th("plugins", "check", "both")

        assert status == 0, out
        assert "passed" in out

    def test_a_broken_promise_fails(self, install: InstalledPlugins, th: Th) -> None:
        """And is named."""
        install("one", {"one": source("InPlace", "plugin_code:InPlace")})

        status, out, _ = th("plugins", "check", "one")

        assert status == 1
        assert "tensor_metadata['seen'] is the model's memory" in out

    def test_every_kind_has_a_contract(self) -> None:
        """Which is a class of `tenterhook.testing`."""
        assert tuple(CONTRACTS) == KINDS
        for module, contract in CONTRACTS.values():
            assert hasattr(importlib.import_module(f"tenterhook.testing.{module}"), contract)

    @pytest.mark.matrix(sample=2)
    @pytest.mark.parametrize(
        ("name", "passed"),
        [
            ("tokens", "6 passed"),
            ("run-log", "9 passed"),
            ("json", "14 passed"),
            ("last", "18 passed"),
        ],
    )
    def test_what_we_install_keeps_its_contract(self, name: str, passed: str) -> None:
        """Here, a command, an observer, a format and a selector; what was not checked is said."""
        command = [sys.executable, "-m", "tenterhook", "plugins", "check", name]
        done = subprocess.run(command, capture_output=True, text=True)

        assert done.returncode == 0, done.stdout + done.stderr
        assert passed in done.stdout

    def test_what_cannot_be_made_fails(self, install: InstalledPlugins, th: Th) -> None:
        """Nothing was checked; the reason says how it can be."""
        install("one", {"one": source("Adds", "plugin_code:Adds", "controllers")})

        status, out, _ = th("plugins", "check", "one")

        assert status == 1
        assert "Adds cannot be made of its defaults" in out

    def test_names_that_differ_in_a_dash(self, install: InstalledPlugins, th: Th) -> None:
        """Both are checked."""
        install.site.joinpath("plugin_loads.py").write_text("def load(name, **_): return None")
        two = source("my-loader", "plugin_loads:load", "loaders")
        install("both", {"one": two, "two": two.replace("my-loader", "my_loader")})

        assert "20 failed" in th("plugins", "check", "both")[1]

    def test_names_with_a_dash(self, install: InstalledPlugins, th: Th) -> None:
        """As schemes have; a loader that is broken is named by its tests."""
        install.site.joinpath("plugin_loads.py").write_text("def load(name, **_): return None")
        install("one", {"one": source("my-loader", "plugin_loads:load", "loaders")})

        status, out, _ = th("plugins", "check", "my-loader")

        assert status == 1
        assert "KeyError" not in out
        assert "NoneType" in out

    def test_a_loader_without_a_small_model(self, install: InstalledPlugins, th: Th) -> None:
        """Nothing can be checked, and how it could is said."""
        install.site.joinpath("plugin_loads.py").write_text(
            "def load(name): raise ValueError(name)"
        )
        install("one", {"one": source("mine", "plugin_loads:load", "loaders")})

        status, out, _ = th("plugins", "check", "mine")

        assert status == 1
        assert "mine loads nothing without a name (ValueError). Give its Extension an" in out
        assert "failed" not in out


class TestClashes:
    """Two plugins with one name: whoever asks for it by name is told of both."""

    @pytest.fixture(autouse=True)
    def two(self, install: InstalledPlugins, code: None) -> None:
        """Install them."""
        for name in ("one", "two"):
            install(name, {name: source("greet", "plugin_code:Keeps", "commands")})

    @pytest.mark.parametrize("asked", [("greet",), ("plugins", "info", "greet")], ids="/".join)
    def test_it_is_bad_input(self, th: Th, asked: tuple[str, ...]) -> None:
        """One line that has the way out."""
        status, out, err = th(*asked)

        assert (status, out) == (2, "")
        assert "is offered by plugin 'one' (one 1.0) and by plugin 'two' (two 1.0)" in err
        assert "TENTERHOOK_BLOCK_PLUGINS=one or TENTERHOOK_BLOCK_PLUGINS=two" in err

    def test_lists_and_help_work(self, th: Th) -> None:
        """They report it, and miss the one name."""
        assert th("--help")[0] == 0
        status, _, err = th("plugins", "list")
        assert status == 0
        assert err.count("warning: Plugin 'two' of two 1.0 clashes with another: ") == 1
