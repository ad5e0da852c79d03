"""What becomes of what plugins declare, hook by hook, through real entry points."""

import json
import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tenterhook
import tenterhook.hooks
import tenterhook_capture.plugin
import tenterhook_cli
import tenterhook_store
from tenterhook.errors import UnknownLayer
from tenterhook.plugins import AmbiguousExtension, BrokenExtension, PluginWarning
from tenterhook.standard_names import StandardNames
from tenterhook_capture import resume_run, save_activations
from tenterhook_capture.documents import read_documents
from tenterhook_capture.engine import LocalEngine, UnknownEngine, make_engine
from tenterhook_capture.loading import load_model
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_specs import BadSpec, HookSpec, dumps, loads, read_spec, write_spec
from tenterhook_store import LocalStore, MemoryStore, Run, UnknownFormat, find_exporter

Install = Callable[..., Path]

HEAD = """
from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl
"""


def declaring(kind: str, name: str, target: str = "fractions:Fraction") -> str:
    """Return the source of a plugin that offers one thing."""
    return f"""{HEAD}
@hookimpl
def tenterhook_{kind}():
    return [Extension({name!r}, {target!r}, 'Does it.')]
"""


class TestDetectors:
    def test_a_class_is_served_by_name(self, install: Install) -> None:
        """`tenterhook.hooks` has it."""
        install("one", {"one": declaring("detectors", "One")})

        assert tenterhook.hooks.One is Fraction
        assert "One" in dir(tenterhook.hooks)


class TestControllers:
    def test_a_class_is_served_by_name(self, install: Install) -> None:
        """`tenterhook.hooks` has it."""
        install("one", {"one": declaring("controllers", "One")})

        assert tenterhook.hooks.One is Fraction


class TestStores:
    def test_a_class_is_served_by_name(self, install: Install) -> None:
        """`tenterhook_store` has it, and `LocalStore` the one that is the default."""
        stores = "from tenterhook_store import MemoryStore\ndef make(path, *, create): return path"
        install("tenterhook-zarr", {"a": declaring("stores", "ZarrStore", "plugin_b:make")})
        install("b", {"b": declaring("stores", "Other", "plugin_b:MemoryStore") + stores})

        assert tenterhook_store.Other is MemoryStore
        made: Any = tenterhook_store.LocalStore("here")
        assert made == "here"


class TestLoaders:
    def test_a_scheme_is_served(self, install: Install) -> None:
        """It is called with what follows the colon and with what was asked for."""
        load = """
from tenterhook_capture.testing.text_models import WordModel
def load(name, *, dtype, device, revision):
    model = WordModel()
    model.asked = name, dtype, device, revision
    return model
"""
        install("one", {"one": declaring("loaders", "words", "plugin_one:load") + load})

        found: Any = load_model("words:a:b", dtype="float16", revision="r")

        assert found.asked == ("a:b", "float16", None, "r")

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize(
        ("load", "cause"),
        [
            ("\ndef load(name, **settings): return name", "returned a str.*no TextModel"),
            ("\ndef load(name, **settings): pass", "returned a NoneType"),
            (
                "\nfrom torch.nn import Linear as load",
                "cannot be called as its kind is.*missing a required argument: 'out_features'",
            ),
            (
                "\nimport tenterhook, torch"
                "\ndef load(name, **settings): return tenterhook.attach(torch.nn.Identity())",
                "returned a HookedModel.*no max_tokens, token_ids, run_token_ids, describe_model",
            ),
            ("\nasync def load(name, **settings): pass", "write `def`, not `async def`"),
            (
                "\ndef load(name): pass",
                "cannot be called as its kind is.*unexpected keyword argument 'dtype'",
            ),
            ("\nload = 3", "cannot be called as its kind is.*3 is not a callable object"),
        ],
        ids=["text", "nothing", "a class", "a bare model", "async", "keywords", "no function"],
    )
    def test_one_that_breaks_the_contract_is_named(
        self, install: Install, load: str, cause: str
    ) -> None:
        """At once, with its plugin: the model would fail later, and nobody know whose it is."""
        install("one", {"one": declaring("loaders", "words", "plugin_one:load") + load})

        with pytest.raises(BrokenExtension, match=f"Loader 'words' of plugin 'one'.*{cause}"):
            load_model("words:")

    def test_what_it_raises_stays_what_it_is(self, install: Install) -> None:
        """A name that it does not know is its user's mistake, and a `TypeError` inside its own."""
        load = "\ndef load(name, **settings): len(name, 3)"
        install("one", {"one": declaring("loaders", "words", "plugin_one:load") + load})

        with pytest.raises(TypeError, match="exactly one argument"):
            load_model("words:")

    def test_the_command_line_fails_with_one_line(
        self, install: Install, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """Nothing that is typed otherwise repairs it."""
        load = "\ndef load(name, **settings): return name"
        install("one", {"one": declaring("loaders", "words", "plugin_one:load") + load})

        with pytest.raises(SystemExit) as stop:
            tenterhook_cli.main(["layers", "words:"])

        (line,) = capsys.readouterr().err.splitlines()
        assert stop.value.code == 1
        assert line.startswith("error: Loader 'words' of plugin 'one' (one 1.0) returned a str")


class TestDatasets:
    def test_a_scheme_is_served(self, install: Install) -> None:
        """It is called with what follows the colon, and the field."""
        read = """
from tenterhook_capture.documents import Documents
def read(name, *, field):
    return Documents(["The fog comes"], source=name, field=field)
"""
        install("one", {"one": declaring("datasets", "poems", "plugin_one:read") + read})

        found = read_documents("poems:fog", field="line")

        assert (list(found), found.field) == (["The fog comes"], "line")
        assert "fog" in found.source

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize(
        ("read", "cause"),
        [
            (
                "\ndef read(name, *, field): return ['The fog comes']",
                "returned a list.*no Documents",
            ),
            ("\nasync def read(name, *, field): pass", "write `def`, not `async def`"),
            (
                "\ndef read(name): pass",
                "cannot be called as its kind is.*unexpected keyword argument 'field'",
            ),
        ],
        ids=["a list", "async", "keywords"],
    )
    def test_one_that_breaks_the_contract_is_named(
        self, install: Install, read: str, cause: str
    ) -> None:
        """At once, with its plugin."""
        install("one", {"one": declaring("datasets", "poems", "plugin_one:read") + read})

        with pytest.raises(BrokenExtension, match=f"Dataset 'poems' of plugin 'one'.*{cause}"):
            read_documents("poems:fog")


NAMES = """
from tenterhook.standard_names import StandardNames
def name(module):
    if not hasattr(module, "stack"):
        return None
    layers = {f"resid_post.{at}": f"stack.{at}" for at in range(len(module.stack))}
    return StandardNames(layers=layers, residual="sequential")
"""


class TestLayerNames:
    @pytest.fixture
    def model(self) -> tenterhook.HookedModel:
        """Return a model with a stack of three."""
        module = nn.Module()
        module.stack = nn.ModuleList(nn.Identity() for _ in range(3))
        return tenterhook.attach(module)

    def test_a_standard_name_is_a_spelling(
        self, install: Install, model: tenterhook.HookedModel
    ) -> None:
        """Alone and in patterns; what a layer is called stays its dotted name."""
        install("one", {"one": declaring("layer_names", "stacks", "plugin_one:name") + NAMES})

        assert model.layers.index.resolve("resid_post.2").name == "stack.2"
        found = model.layers.index.expand(["resid_post.*"])
        assert [layer.name for layer in found] == ["stack.0", "stack.1", "stack.2"]

    def test_a_plugin_that_does_not_know_the_model_lets_others_answer(
        self, install: Install, model: tenterhook.HookedModel
    ) -> None:
        """In the order of the extensions' names."""
        none = "\ndef name(module): return None"
        install("one", {"one": declaring("layer_names", "z", "plugin_one:name") + NAMES})
        install("two", {"two": declaring("layer_names", "a", "plugin_two:name") + none})

        assert model.layers.index.resolve("resid_post.0").name == "stack.0"

    @pytest.mark.parametrize(
        ("broken", "cause"),
        [
            ("\ndef name(module): return 1 / 0", "ZeroDivisionError"),
            ("\ndef name(module): return {}", "returned a dict, which has no names of layers"),
            ("\ndef name(module): raise SystemExit(3)", "SystemExit: 3"),
            (
                "\nfrom tenterhook.standard_names import StandardNames"
                "\ndef name(module): return StandardNames(layers={1: 2}, residual='parallel')",
                "layers has 1 for 2. Write resid_post.3",
            ),
            ("", "'plugin_two:name' is not there"),
        ],
        ids=["raises", "returns something else", "exits", "odd names", "is not there"],
    )
    def test_a_plugin_that_fails_is_skipped(
        self, install: Install, model: tenterhook.HookedModel, broken: str, cause: str
    ) -> None:
        """With a warning that names it."""
        install("one", {"one": declaring("layer_names", "z", "plugin_one:name") + NAMES})
        install("two", {"two": declaring("layer_names", "a", "plugin_two:name") + broken})

        with pytest.warns(PluginWarning, match=f"'a' of plugin 'two' .*{cause}"):
            assert model.layers.index.resolve("resid_post.0").name == "stack.0"

    def test_one_that_names_what_is_not_there_is_skipped(
        self, install: Install, model: tenterhook.HookedModel
    ) -> None:
        """Before a name of it is used, whichever that is; told once of a model, with the paths."""
        wrong = NAMES.replace('f"stack.{at}"', 'f"stock.{at}" if at else "stack.0"')
        install("one", {"one": declaring("layer_names", "z", "plugin_one:name") + NAMES})
        install("two", {"two": declaring("layer_names", "a", "plugin_two:name") + wrong})

        with pytest.warns(PluginWarning) as caught:
            found = model.layers.index.expand(["resid_post.0", "resid_post.2", "resid_post.*"])

        assert [layer.name for layer in found] == ["stack.0", "stack.2", "stack.1"]
        (warning,) = caught
        assert "'a' of plugin 'two' (two 1.0) failed" in str(warning.message)
        assert "names 'stock.1', not in this Module" in str(warning.message)

    def test_names_that_name_each_other_are_no_layers(
        self, install: Install, model: tenterhook.HookedModel
    ) -> None:
        """A standard name stands for a dotted name."""
        wrong = NAMES.replace('f"stack.{at}"', 'f"resid_post.{at}"')
        install("two", {"two": declaring("layer_names", "a", "plugin_two:name") + wrong})

        with (
            pytest.warns(PluginWarning, match="names 'resid_post.0', not in this"),
            pytest.raises(UnknownLayer, match="No installed plugin gives it"),
        ):
            model.layers.index.resolve("resid_post.0")

    def test_a_name_that_no_plugin_knows(
        self, install: Install, model: tenterhook.HookedModel
    ) -> None:
        """It says so, and names what to install."""
        with pytest.raises(UnknownLayer, match="pip install tenterhook-interiors"):
            model.capture("resid_post.0")

    def test_only_standard_names_are_named(self) -> None:
        """A misspelt place is refused where it is made."""
        with pytest.raises(ValueError, match=r"layers has 'resid_mid\.0' for 'a'\. Write resid"):
            StandardNames(layers={"resid_mid.0": "a"}, residual="sequential")
        with pytest.raises(ValueError, match="residual"):
            StandardNames(layers={}, residual="both")  # type: ignore[arg-type]


POINTS = """
from tenterhook.points import Point, Points
def find(module):
    if not hasattr(module, "stack"):
        return None
    return Points(layers={"mid.0": Point("mid.0"), "mid.1": "stack.1"}, refused={"mid.2": "No."})
"""


class TestPoints:
    @pytest.fixture
    def model(self) -> tenterhook.HookedModel:
        """Return a model with a stack of three."""
        module = nn.Module()
        module.stack = nn.ModuleList(nn.Identity() for _ in range(3))
        return tenterhook.attach(module)

    def test_names_of_points_and_layers(
        self, install: Install, model: tenterhook.HookedModel
    ) -> None:
        """The extension's name is the word that they begin with."""
        install("one", {"one": declaring("points", "mid", "plugin_one:find") + POINTS})

        assert model.layers.list_layers(points=True)[-2:] == ["mid.0", "mid.1"]
        assert [at.name for at in model.layers.index.expand(["mid.*"])] == ["mid.0", "stack.1"]
        with pytest.raises(UnknownLayer, match=r"'mid\.2' in this model\. No\."):
            model.capture("mid.2")

    def test_a_plugin_that_fails_is_passed_over(
        self, install: Install, model: tenterhook.HookedModel
    ) -> None:
        """With a warning that names it."""
        broken = "\ndef find(module): raise SystemExit(3)"
        install("one", {"one": declaring("points", "mid", "plugin_one:find") + broken})

        with (
            pytest.warns(PluginWarning, match="Points 'mid' of plugin 'one' .*SystemExit: 3"),
            pytest.raises(UnknownLayer, match="pip install tenterhook-interiors"),
        ):
            model.capture("mid.0")


GREET = """
import click
@click.command()
@click.argument("name")
def greet(name):
    "Greet NAME."
    click.echo(f"Hello, {name}.")
"""


class RunsCommands:
    """Runs the command line."""

    def run(self, capsys: pytest.CaptureFixture[str], *args: str) -> tuple[object, str, str]:
        """Run the command line in this process."""
        with pytest.raises(SystemExit) as stop:
            tenterhook_cli.main(args)
        return stop.value.code, *capsys.readouterr()


class TestCommands(RunsCommands):
    def test_it_runs(self, install: Install, capsys: pytest.CaptureFixture[str]) -> None:
        """With its own arguments and help."""
        install("one", {"one": declaring("commands", "greet", "greeting:greet")})
        install("two", {}).joinpath("greeting.py").write_text(GREET)

        assert self.run(capsys, "greet", "Ann") == (0, "Hello, Ann.\n", "")
        assert "Greet NAME." in self.run(capsys, "greet", "--help")[1]
        code, _, said = self.run(capsys, "greet")
        assert (code, said.splitlines()[0]) == (2, "error: Missing argument 'NAME'.")

    def test_help_imports_nothing(
        self, install: Install, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The extension's line is shown, whether the command can be imported or not."""
        install("one", {"one": declaring("commands", "greet", "not_there:greet")})

        code, out, err = self.run(capsys, "--help")

        assert (code, err) == (0, "")
        assert [line for line in out.splitlines() if line.split() == ["greet", "Does", "it."]]

    @pytest.mark.parametrize(
        ("target", "said"),
        [
            (
                "not_there:greet",
                "error: Command 'greet' of plugin 'one' (one 1.0) cannot be imported: 'not_",
            ),
            ("fractions:Fraction", "error: 'fractions:Fraction' of plugin 'one' (one 1.0) is a"),
        ],
    )
    def test_one_that_cannot_be_had_is_an_error_of_one_line(
        self, install: Install, capsys: pytest.CaptureFixture[str], target: str, said: str
    ) -> None:
        """And every other command works."""
        install("one", {"one": declaring("commands", "greet", target)})

        code, out, err = self.run(capsys, "greet")

        assert (code, out) == (1, "")
        assert err.startswith(said)
        assert self.run(capsys, "plugins", "list")[0] == 0

    def test_our_own_words_are_ours(
        self, install: Install, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A plugin that takes one is reported, and what runs is ours."""
        install("one", {"one": declaring("commands", "plugins", "not_there:greet")})

        code, _, err = self.run(capsys, "plugins", "list")

        assert code == 0
        assert "its command 'plugins' has a name that is reserved for tenterhook-cli" in err


SHOP = """
import click
@click.group()
def shop():
    "Buy and sell."
@shop.command()
def buy():
    click.echo("bought")
@click.command()
@click.argument("rest", nargs=-1)
def alone(rest):
    click.echo(" ".join(["alone", *rest]))
"""


class TestCommandsOfGroups(RunsCommands):
    """`shop.greet` adds `greet` to the group `shop`, which is another plugin's."""

    @pytest.fixture
    def shop(self, install: Install) -> Install:
        """Install a group, a command that is none, and code of a command to add."""
        source = declaring("commands", "shop", "shopping:shop")
        alone = "Extension('alone', 'shopping:alone', 'Is alone.'), "
        install("shop", {"shop": source.replace("return [", f"return [{alone}")})
        site = install("code", {})
        site.joinpath("shopping.py").write_text(SHOP)
        site.joinpath("greeting.py").write_text(GREET)
        return install

    @pytest.mark.parametrize("group", ["shop", "runs"])
    def test_it_runs(self, shop: Install, capsys: pytest.CaptureFixture[str], group: str) -> None:
        """In a group of a plugin, and in one of ours."""
        shop("one", {"one": declaring("commands", f"{group}.greet", "greeting:greet")})

        assert self.run(capsys, group, "greet", "Ann") == (0, "Hello, Ann.\n", "")
        listed = self.run(capsys, group, "--help")[1].partition("Commands:")[2].splitlines()
        assert ["greet", "Does", "it."] in [line.split() for line in listed]
        assert not [line for line in listed if line.split() == ["Does", "it."]]
        assert f"{group}.greet" not in self.run(capsys, "--help")[1]

    def test_the_group_is_not_changed(
        self, shop: Install, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """It is its author's object, which others may use."""
        shop("one", {"one": declaring("commands", "shop.greet", "greeting:greet")})

        assert self.run(capsys, "shop", "greet", "Ann")[0] == 0

        import shopping  # type: ignore[import-not-found]

        assert list(shopping.shop.commands) == ["buy"]

    def test_what_the_group_has_comes_first(
        self, shop: Install, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """The doctor says that the other is never run."""
        shop("one", {"one": declaring("commands", "shop.buy", "greeting:greet")})

        assert self.run(capsys, "shop", "buy") == (0, "bought\n", "")
        code, out, _ = self.run(capsys, "plugins", "doctor")
        assert code == 1
        assert "- Command 'shop.buy' of plugin 'one' (one 1.0) is never run: plugin 'shop'" in out

    def test_a_group_that_is_not_there_is_reported(
        self, shop: Install, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """By name, in the list of plugins; nothing else suffers."""
        shop("one", {"one": declaring("commands", "stall.greet", "greeting:greet")})

        code, _, err = self.run(capsys, "plugins", "list")

        assert (code, err) == (
            0,
            "warning: Command 'stall.greet' of plugin 'one' (one 1.0) adds to 'stall', which is "
            "no command of tenterhook.\n",
        )
        assert self.run(capsys, "shop", "buy")[0] == 0

    def test_a_command_that_is_no_group_is_reported(
        self, shop: Install, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """By the doctor, which imports it; the command runs as it did."""
        shop("one", {"one": declaring("commands", "alone.greet", "greeting:greet")})

        assert self.run(capsys, "alone", "greet") == (0, "alone greet\n", "")
        out = self.run(capsys, "plugins", "doctor")[1]
        assert "adds to 'alone' of plugin 'shop' (shop 1.0), which is no group." in out

    def test_a_group_that_cannot_be_had_is_reported(
        self, shop: Install, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """By the doctor."""
        shop("two", {"two": declaring("commands", "gone", "not_there:gone")})
        shop("one", {"one": declaring("commands", "gone.greet", "greeting:greet")})

        out = self.run(capsys, "plugins", "doctor")[1]

        assert (
            "adds to 'gone', which cannot be had: ImportError: Command 'gone' of plugin 'two'"
            in out
        )


class TestWherePluginsAreKeptOut(RunsCommands):
    """`tenterhook plugins` helps to find out why, so it works whatever is wrong."""

    def test_the_list_works_where_nothing_is_loaded(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """And says which variable keeps plugins out, of which our own is one."""
        monkeypatch.setenv("TENTERHOOK_PLUGINS", "")

        code, out, err = self.run(capsys, "plugins", "list")

        assert (code, out) == (0, "")
        assert err == "No plugins are loaded. See TENTERHOOK_PLUGINS in the environment.\n"

    def test_it_stays_json_whatever_a_plugin_prints(
        self, install: Install, capfd: pytest.CaptureFixture[str]
    ) -> None:
        """By Python, past Python, or in a process that it starts."""
        loud = (
            "import os, subprocess\nprint('one')\nos.write(1, b'two\\n')\n"
            "subprocess.run(['echo', 'three'])\n"
        )
        install("one", {"one": loud + declaring("detectors", "One")})

        with pytest.raises(SystemExit):
            tenterhook_cli.main(["plugins", "list", "--json"])

        out, err = capfd.readouterr()
        assert [row["name"] for row in json.loads(out)] == ["One"]
        assert sorted(err.split()) == ["one", "three", "two"]


OBSERVER = """
told = []
class Observer:
    def begin(self, run):
        told.append((run.run_id, run.rows, run.rows_committed, run.units, run.units_committed))
    def unit(self, event):
        told.append(event.unit.number)
    def end(self, error):
        told.append(error)
"""


class TestObservers:
    def capture(self, store: MemoryStore) -> str:
        """Capture nine rows in three units."""
        texts = ["one two three", "four five", "six seven eight nine"]
        return save_activations(WordModel(), "blocks.0", texts, store, rows_per_unit=4)

    def test_it_is_told_of_a_run(self, install: Install) -> None:
        """Its begin, each unit, its end; nothing where there is nothing to do."""
        install("one", {"one": declaring("observers", "watch", "plugin_one:Observer") + OBSERVER})
        store = MemoryStore()

        run_id = self.capture(store)
        self.capture(store)

        import plugin_one  # type: ignore[import-not-found]

        assert plugin_one.told == [(run_id, 9, 0, 3, 0), 0, 1, 2, None]

    @pytest.mark.parametrize(
        "broken",
        [
            OBSERVER.replace("def begin(self, run):", "def begin(self, run):\n        1 / 0"),
            OBSERVER.replace("def unit(self, event):", "def unit(self, event):\n        1 / 0"),
            OBSERVER.replace("def end(self, error):", "def end(self, error):\n        1 / 0"),
            OBSERVER.replace("class Observer:", "class Observer:\n    def __init__(self): 1 / 0"),
            "1 / 0",
            OBSERVER.replace(
                "def unit(self, event):", "def unit(self, event):\n        exit('ZeroDiv')"
            ),
        ],
        ids=["begin", "unit", "end", "making it", "importing it", "exits"],
    )
    def test_one_that_fails_stops_nothing(self, install: Install, broken: str) -> None:
        """It is one warning; the run is complete, and others are told of it."""
        install("one", {"one": declaring("observers", "a", "broken_observer:Observer")})
        install("two", {"two": declaring("observers", "b", "plugin_two:Observer") + OBSERVER})
        site = install("three", {})
        site.joinpath("broken_observer.py").write_text(broken)
        store = MemoryStore()

        with pytest.warns(PluginWarning, match="Observer 'a' of plugin 'one' .* ZeroDiv") as caught:
            run_id = self.capture(store)

        import plugin_two  # type: ignore[import-not-found]

        assert len(caught) == 1
        assert store.run(run_id).is_complete
        assert plugin_two.told[1:] == [0, 1, 2, None]

    @pytest.mark.filterwarnings("error::RuntimeWarning")
    def test_one_that_would_be_awaited_is_reported(self, install: Install) -> None:
        """It would do nothing, and Python complain about it somewhere else."""
        broken = OBSERVER.replace("def unit", "async def unit")
        install("one", {"one": declaring("observers", "watch", "plugin_one:Observer") + broken})

        with pytest.warns(PluginWarning, match="'watch' .* write `def`, not `async def`") as caught:
            self.capture(MemoryStore())

        assert len(caught) == 1


LINES = """
import json
def loads(text):
    return {key: json.loads(value) for key, value in map(str.split, text.splitlines())}
def dumps(values):
    return "".join(f"{key} {json.dumps(value)}\\n" for key, value in values.items())
class Lines:
    loads, dumps = staticmethod(loads), staticmethod(dumps)
"""


class TestSpecFormats:
    SPEC = HookSpec(hook="Scale", layer=2)

    def test_an_ending_is_read_and_written(self, install: Install, tmp_path: Path) -> None:
        """By a module of two functions or an object that has them, whatever the letters' case."""
        install("one", {"one": declaring("spec_formats", "lines", "plugin_one:Lines") + LINES})

        write_spec(self.SPEC, tmp_path / "a.LINES")

        assert (tmp_path / "a.LINES").read_text() == 'hook "Scale"\nlayer 2\nparameters {}\n'
        assert read_spec(tmp_path / "a.LINES", HookSpec) == self.SPEC

    @pytest.mark.parametrize(
        ("change", "cause"),
        [
            ("Lines.dumps = None", "has no function 'dumps'"),
            ("Lines = 3", "has no function 'loads'"),
            ("Lines.dumps = staticmethod(lambda values: b'')", "wrote a bytes, and no text"),
        ],
    )
    def test_one_that_is_broken_is_named(self, install: Install, change: str, cause: str) -> None:
        """With the plugin that offers it."""
        source = declaring("spec_formats", "lines", "plugin_one:Lines")
        install("one", {"one": f"{source}{LINES}\n{change}"})

        with pytest.raises(BrokenExtension, match=f"Spec format 'lines' of plugin 'one'.*{cause}"):
            dumps(self.SPEC, "lines")

    @pytest.mark.parametrize(
        ("result", "cause"),
        [
            ("{'hook': {1}}", "hook is a set, which is no plain value"),
            ("{1: 2}", "the spec has the key 1, and keys are text"),
            ("[cycle := [], cycle.append(cycle)][0]", "more than 64 lists and tables"),
            ("{'a': [[0] * 1000] * 1000}", "holds more than 100,000 values"),
            ("int('x')", "is no LINES: invalid literal"),
            ("'text'", "holds a str, and must hold a table"),
        ],
    )
    def test_what_it_says_is_checked(self, install: Install, result: str, cause: str) -> None:
        """Whoever reads the values next need not."""
        source = declaring("spec_formats", "lines", "plugin_one:Lines")
        change = f"Lines.loads = staticmethod(lambda text: {result})"
        install("one", {"one": f"{source}{LINES}\n{change}"})

        with pytest.raises(BadSpec, match=cause):
            loads("", HookSpec, "lines")


EXPORT = """
from tenterhook_store import export_folder
def export(run, folder, *, layers=None, missing=None, overwrite=False):
    rows = run.ranges.part(slice(None), missing)
    with export_folder(folder, run, rows, "words", overwrite=overwrite) as made:
        lines = [str(token) for part in rows for token in run.tokens[part].tolist()]
        made.path.joinpath("words.txt").write_text(" ".join(lines))
"""


class TestExporters:
    def run(self) -> Run:
        """Capture three rows; the plugins that are installed by then are loaded."""
        store = MemoryStore()
        return store.run(save_activations(WordModel(), "blocks.0", ["one two", "three"], store))

    def test_a_format_is_written(self, install: Install, tmp_path: Path) -> None:
        """By its name, and by nothing that was imported before."""
        install("one", {"one": declaring("exporters", "words", "plugin_one:export") + EXPORT})

        find_exporter("words")(self.run(), tmp_path / "out", layers=None, missing=None)

        assert len((tmp_path / "out/words.txt").read_text().split()) == 3
        mark = json.loads((tmp_path / "out/run.json").read_bytes())
        assert (mark["kind"], mark["rows"]) == ("words", [[0, 3]])

    def test_the_command_line_has_it(
        self, install: Install, tmp_path: Path, th: Callable[..., tuple[object, str, str]]
    ) -> None:
        """`runs export --format` takes whatever is installed, and lists it where it has no such."""
        install("one", {"one": declaring("exporters", "words", "plugin_one:export") + EXPORT})
        zarr = declaring("stores", "ZarrStore", "tenterhook_zarr:ZarrStore")
        install("tenterhook-zarr", {"zarr": zarr})
        store, out = str(tmp_path / "store"), str(tmp_path / "out")
        save_activations(WordModel(), "blocks.0", ["one two"], LocalStore(store), run_name="r")

        code, said, _ = th("runs", "export", store, "--format", "words", "--to", out)
        assert (code, said) == (0, f"Wrote 2 rows of run r to {out}.\n")
        assert len((tmp_path / "out/words.txt").read_text().split()) == 2

        code, _, err = th("runs", "export", store, "--format", "word", "--to", out)
        assert code == 2
        assert "No installed plugin exports runs as 'word'. There are words." in err

    @pytest.mark.parametrize(
        ("export", "cause"),
        [
            ("\ndef export(run, folder): pass", "cannot be called as its kind is.*'layers'"),
            ("\nasync def export(run, folder, **settings): pass", "write `def`, not `async def`"),
            ("\nexport = 3", "cannot be called as its kind is.*3 is not a callable object"),
        ],
        ids=["keywords", "async", "no function"],
    )
    def test_one_that_breaks_the_contract_is_named(
        self, install: Install, tmp_path: Path, export: str, cause: str
    ) -> None:
        """When it is called, with its plugin."""
        install("one", {"one": declaring("exporters", "words", "plugin_one:export") + export})

        with pytest.raises(BrokenExtension, match=f"Exporter 'words' of plugin 'one'.*{cause}"):
            find_exporter("words")(self.run(), tmp_path, layers=None)

    def test_one_name_of_two_plugins(self, install: Install) -> None:
        """Neither serves it, and both are named."""
        for name in ("one", "two"):
            source = declaring("exporters", "words", f"plugin_{name}:export") + EXPORT
            install(name, {name: source})

        with (
            pytest.warns(PluginWarning, match="exporter 'words'"),
            pytest.raises(AmbiguousExtension, match=r"is offered by .*'one'.* and by .*'two'"),
        ):
            find_exporter("words")

    def test_a_format_that_nobody_has(self) -> None:
        """The error says so where there is none at all, too."""
        with pytest.raises(UnknownFormat, match=r"exports runs as 'npy'\. There is none\."):
            find_exporter("npy")


class Embeds(torch.nn.Module):
    """Gives each token a row."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(10, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Take `(batch, seq)` twice."""
        found: torch.Tensor = self.embed(input_ids)
        return found


class TestSelectors:
    IDS = torch.tensor([[1, 2, 3], [4, 6, 8]])
    MASK = torch.tensor([[1, 1, 1], [1, 1, 0]])

    def test_a_word_selects_what_its_function_says(self, install: Install) -> None:
        """In a capture and in a steer; padding is never among it."""
        code = "\ndef select(tokens): return tokens.ids % 2 == 0"
        install("one", {"one": declaring("selectors", "even", "plugin_one:select") + code})
        model = tenterhook.attach(Embeds())

        with model.capture("embed") as plain:
            model(self.IDS, self.MASK)
        with model.steer("embed", torch.neg, tokens="even"), model.capture("embed") as changed:
            model(self.IDS, self.MASK)
        with model.capture("embed", tokens="even") as chosen:
            model(self.IDS, self.MASK)

        assert chosen.where("embed")[0].tolist() == [[0, 1], [1, 0], [1, 1]]
        signs = changed.last("embed") / plain.last("embed")
        assert signs[..., 0].tolist() == [[1, -1, 1], [-1, -1, 1]]

    def test_a_word_that_nobody_has(self, install: Install) -> None:
        """The words there are, and the nearest."""
        install("one", {"one": declaring("selectors", "even", "plugin_one:select")})
        model = tenterhook.attach(Embeds())

        with pytest.raises(ValueError, match=r"Did you mean 'even'.*The words there are .*'even'"):
            model.capture("embed", tokens="evn")

    @pytest.mark.parametrize(
        ("select", "cause"),
        [
            ("def select(tokens): return [0]", "returned list, not a bool mask"),
            ("def select(tokens): return tokens.position", r"returned torch.int64 of shape"),
            ("def select(): pass", "cannot be called as its kind is"),
        ],
        ids=["no tensor", "no mask", "arguments"],
    )
    def test_one_that_breaks_the_contract_is_named(
        self, install: Install, select: str, cause: str
    ) -> None:
        """When a forward asks it, with its plugin."""
        install("one", {"one": declaring("selectors", "even", "plugin_one:select") + "\n" + select})
        model = tenterhook.attach(Embeds())

        with (
            pytest.raises(BrokenExtension, match=f"Selector 'even' of plugin 'one'.*{cause}"),
            model.capture("embed", tokens="even"),
        ):
            model(self.IDS, self.MASK)


ENGINE = """
import attrs
from tenterhook_capture.engine import UnitDone
did = []
@attrs.frozen
class Backwards:
    most: int = 9
    def run(self, units, make_worker):
        worker = make_worker()
        for unit in units[::-1][:self.most]:
            did.append(unit.number)
            yield UnitDone(unit, worker(unit))
"""


class TestEngines:
    TEXTS = ("one two three", "four five", "six seven eight nine")

    def capture(self, store: MemoryStore, engine: Any) -> str:
        """Capture nine rows in three units."""
        return save_activations(
            WordModel(), "blocks.0", self.TEXTS, store, rows_per_unit=4, engine=engine
        )

    def test_a_name_does_the_units(self, install: Install) -> None:
        """In its own order; the run is the same."""
        install("one", {"one": declaring("engines", "backwards", "plugin_one:Backwards") + ENGINE})
        store, other = MemoryStore(), MemoryStore()

        run = store.run(self.capture(store, "backwards"))

        import plugin_one

        assert plugin_one.did == [2, 1, 0]
        assert run.is_complete
        expected = other.run(self.capture(other, None))
        assert run.id == expected.id
        assert run["blocks.0"][:].equal(expected["blocks.0"][:])

    def test_it_is_made_with_its_settings(self, install: Install) -> None:
        """What it leaves undone it is handed again; a setting that it lacks is a `TypeError`."""
        install("one", {"one": declaring("engines", "backwards", "plugin_one:Backwards") + ENGINE})
        store = MemoryStore()

        run = store.run(self.capture(store, make_engine("backwards", most=1)))

        import plugin_one

        assert plugin_one.did == [2, 1, 0]
        assert run.is_complete
        with pytest.raises(TypeError, match="workers"):
            make_engine("backwards", workers=3)

    def test_the_command_line_has_it(
        self, install: Install, tmp_path: Path, th: Callable[..., tuple[object, str, str]]
    ) -> None:
        """In `capture`, `work` and `runs resume`, which end one engine's run with another."""
        load = """
from tenterhook_capture.testing.text_models import WordModel
def load(name, **settings):
    return WordModel()
"""
        stop = ENGINE.replace("did.append", "1 / (unit.number or self.most - 9); did.append")
        install("one", {"one": declaring("engines", "backwards", "plugin_one:Backwards") + ENGINE})
        install("two", {"two": declaring("engines", "stops", "plugin_two:Backwards") + stop})
        install("three", {"three": declaring("loaders", "words", "plugin_three:load") + load})
        zarr = declaring("stores", "ZarrStore", "tenterhook_zarr:ZarrStore")
        install("tenterhook-zarr", {"zarr": zarr})
        data, out = tmp_path / "data.txt", str(tmp_path / "store")
        data.write_text("\n".join(self.TEXTS))
        words = ["words:", "--layer", "head", "--data", str(data), "--out", out, "--run-name", "r"]

        code, _, err = th("capture", *words, "--engine", "wards")
        assert (code, Path(out).exists()) == (2, False)
        assert "has an engine 'wards'. There are backwards, stops. Did you mean 'back" in err

        code, _, err = th("capture", *words, "--rows-per-unit", "4", "--engine", "stops")
        assert code == 1
        assert LocalStore(out).run("r").committed == {1, 2}
        code, _, err = th("work", out, "--slice", "0/1", "--engine", "stops")
        assert (code, LocalStore(out).run("r").committed) == (1, frozenset({1, 2}))
        code, said, _ = th("runs", "resume", out, "--engine", "backwards")
        assert (code, said) == (0, "Run r: the run is complete, 9 rows.\n")

        import plugin_one

        assert plugin_one.did == [0]

    @pytest.mark.parametrize(
        ("engine", "cause"),
        [
            ("\ndef Backwards(): return 3", "returned a int, which is no Engine: it has no method"),
            ("\nasync def Backwards(): pass", "write `def`, not `async def`"),
            ("\ndef Backwards(workers): pass", "cannot be called as its kind is.*'workers'"),
        ],
        ids=["no engine", "async", "needs settings"],
    )
    def test_one_that_breaks_the_contract_is_named(
        self, install: Install, engine: str, cause: str
    ) -> None:
        """Before anything is made, with its plugin."""
        install("one", {"one": declaring("engines", "backwards", "plugin_one:Backwards") + engine})
        store = MemoryStore()

        with pytest.raises(BrokenExtension, match=f"Engine 'backwards' of plugin 'one'.*{cause}"):
            self.capture(store, "backwards")
        assert store.runs() == []

    def test_a_name_that_nobody_has(self, install: Install) -> None:
        """Those there are, are listed, and nothing is made."""
        install("one", {"one": declaring("engines", "backwards", "plugin_one:Backwards") + ENGINE})
        store = MemoryStore()

        with pytest.raises(UnknownEngine, match=r"an engine 'local'\. There is backwards\.$"):
            resume_run(store, "r", engine="local")
        with pytest.raises(UnknownEngine, match=r"an engine 'x'\. There is backwards\.$") as caught:
            self.capture(store, "x")

        assert (caught.value.known, store.runs()) == (("backwards",), [])
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(copy), copy.name) == (str(caught.value), "x")

    def test_where_there_is_none(self, install: Install) -> None:
        """The default needs no plugin."""
        with pytest.raises(UnknownEngine, match=r"an engine 'pool'\. There is none\.$"):
            make_engine("pool")
        store = MemoryStore()
        assert store.run(self.capture(store, None)).is_complete

    def test_ours(self, install: Install) -> None:
        """Our own comes through the same door."""
        install("tenterhook-capture", {"capture": declaring("engines", "local", LOCAL)})

        assert isinstance(make_engine("local"), LocalEngine)
        store = MemoryStore()
        assert store.run(self.capture(store, "local")).is_complete


LOCAL = tenterhook_capture.plugin.tenterhook_engines()[0].target
