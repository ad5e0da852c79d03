"""Points: what a plugin offers inside a model is named, hooked and taken off as layers are."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook import Extension, PluginManager, UnknownLayer, hookimpl
from tenterhook.hooks import Controller, Detector
from tenterhook.plugins import PluginWarning, using
from tenterhook.points import Point, Points
from tenterhook.testing.points import PointsContract


class Block(nn.Module):
    """Twice its input, plus one; what is between is at no module's side."""

    def forward(self, x: Tensor) -> Tensor:
        """Call the points that are in use."""
        for point in POINTS.get(self, ()):
            x = point(x)
        return self.late(x * 2)

    def late(self, x: Tensor) -> Tensor:
        """Return one more."""
        return x + 1


class Model(nn.Module):
    def __init__(self, blocks: int = 3) -> None:
        super().__init__()
        self.h = nn.ModuleList(Block() for _ in range(blocks))

    def forward(self, x: Tensor) -> Tensor:
        """Run the blocks."""
        for block in self.h:
            x = block(x)
        return x


POINTS: dict[nn.Module, list[Point]] = {}
"""The points that are called in each block: those in use."""
ASKED: list[nn.Module] = []


def find_points(module: nn.Module) -> Points | None:
    """Offer `mid.0` and so on, and no `mid` in the last block."""
    if not isinstance(module, Model):
        return None
    ASKED.append(module)
    layers: dict[str, Point | str] = {"after.0": "h.0"}
    *blocks, _ = module.h
    for at, block in enumerate(blocks):
        point = Point(f"mid.{at}")
        point.in_use = switch(block, point)
        layers[point.name] = point
    return Points(
        layers=layers,
        aliases={"h.1:inside": "mid.1"},
        refused={f"mid.{len(blocks)}": "The last block is another."},
    )


def switch(block: nn.Module, point: Point) -> Callable[[bool], None]:
    """Return what has a block call a point while it is used."""

    def in_use(used: bool) -> None:
        standing = [each for each in POINTS.get(block, ()) if each is not point]
        POINTS[block] = [*standing, point] if used else standing

    return in_use


class Plugin:
    @hookimpl
    def tenterhook_points(self) -> list[Extension]:
        """Declare the points, by the words that their names begin with."""
        return [
            Extension(word, f"{__name__}:find_points", "Inside.")
            for word in ("mid", "after", "inside")
        ]


@pytest.fixture(autouse=True)
def offered() -> Iterator[PluginManager]:
    """Have the plugin be the one that is installed."""
    POINTS.clear()
    ASKED.clear()
    manager = PluginManager(autoload=False)
    manager.register(Plugin(), "inside")
    with using(manager):
        yield manager


@pytest.fixture
def model() -> Any:
    """Return a model of three blocks."""
    return tenterhook.attach(Model())


class TestContract(PointsContract):
    def find_points(self, module: nn.Module) -> Points | None:
        """Call what the plugin declares."""
        return find_points(module)

    def model(self) -> nn.Module:
        """Make a model."""
        return Model()

    def run(self, module: nn.Module) -> object:
        """Run it."""
        return module(torch.ones(2, 3))


class Adds(Controller):
    def modify_activations(self, module: Any, inputs: Any, output: Any) -> Any:
        """Add one."""
        return output + 1


class Sees(Detector):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    def process_activations(self, module: Any, input: Any, output: Any) -> None:
        """Keep it."""
        self.seen.append(output)


def test_a_point_is_captured_by_name(model: Any) -> None:
    """By its name and by patterns; the key is the name."""
    with model.capture("mid.*", "h.0") as captured:
        model(torch.ones(1))

    assert list(captured) == ["mid.0", "mid.1", "h.0"]
    assert captured.last("mid.1").tolist() == [3.0]
    assert not POINTS[model.module.h[0]]


def test_a_point_has_aliases(model: Any) -> None:
    """They are not listed, and what is captured goes by the point's name and by theirs."""
    with model.capture("*:inside", "mid.0") as captured, model.steer("h.1:inside", torch.neg):
        model(torch.ones(1))

    assert list(captured) == ["mid.1", "mid.0"]
    assert captured.last("h.1:inside").tolist() == [3.0]
    assert model.layers.list_layers(points=True)[4:] == ["after.0", "mid.0", "mid.1"]
    with pytest.raises(UnknownLayer, match=r"Closest: 'h\.1:inside'"):
        model.capture("h.0:inside")


def test_a_name_may_stand_for_a_layer(model: Any) -> None:
    """Whose own name the key is."""
    with model.capture("after.0") as captured:
        model(torch.ones(1))

    assert list(captured) == ["h.0"]


def test_steering_at_a_point(model: Any) -> None:
    """What a function returns goes on; it may ask where it is."""
    where = []

    def add(x: Tensor, layer: str) -> Tensor:
        where.append(layer)
        return x + 1

    with model.steer("mid.1", add):
        assert model(torch.ones(1)).tolist() == [19.0]
    assert where == ["mid.1"]
    assert model(torch.ones(1)).tolist() == [15.0]


def test_registered_hooks_stand_at_points(model: Any) -> None:
    """Until they are unregistered; off with the other controllers; told by `assert_clean`."""
    id = model.layers.register_hook("mid.0", Adds())

    assert model(torch.ones(1)).tolist() == [23.0]
    with model.without_controllers():
        assert model(torch.ones(1)).tolist() == [15.0]
    with pytest.raises(tenterhook.NotClean, match=r"Adds.* at 'mid\.0'"):
        tenterhook.assert_clean(model)
    assert model.layers.get_hooks("mid.0")
    model.layers.unregister_hook(id)
    tenterhook.assert_clean(model.module)
    assert not POINTS[model.module.h[0]]


def test_a_point_is_replaced(model: Any) -> None:
    """It counts as used, though nothing else stands at it."""
    with model.replace("mid.0", torch.zeros(1)):
        assert model(torch.ones(1)).tolist() == [7.0]
    assert not POINTS[model.module.h[0]]


def test_a_forward_ends_at_a_point(model: Any) -> None:
    """As after any layer."""
    with model.capture("h.*", "mid.1", stop_after="mid.1", missing="ignore") as captured:
        assert model(torch.ones(1)) is None

    assert captured.last("mid.1").tolist() == [3.0]
    assert captured["h.1"] == []


def test_gradients_at_a_point(model: Any) -> None:
    """A hook of gradients sees that of what the point hands on."""
    hook = Sees()
    hook.hook_type = tenterhook.hooks.HookType.BACKWARD
    with model.hooks(("mid.1", hook)):
        model(torch.ones(1, requires_grad=True)).sum().backward()

    assert [each.item() for each in hook.seen] == [4.0]


def test_listing_shows_points_on_request(model: Any) -> None:
    """After the layers; asking may run the model, so that it is not done unasked."""
    assert model.layers.list_layers() == ["h", "h.0", "h.1", "h.2"]
    assert not ASKED
    assert model.layers.list_layers(points=True)[4:] == ["after.0", "mid.0", "mid.1"]


def test_plugins_are_asked_once(model: Any) -> None:
    """Until the model changes; and not for names that no extension of theirs begins."""
    with pytest.raises(UnknownLayer, match=r"'other\.3'"):
        model.capture("other.3")
    assert not ASKED
    with model.capture("mid.0", "mid.*", "after.0", missing="ignore"):
        pass
    model.capture("mid.1")
    assert len(ASKED) == 1
    model.module.h.append(Block())
    assert [at.name for at in model.layers.index.expand(["mid.*"])] == ["mid.0", "mid.1", "mid.2"]
    assert len(ASKED) == 2


def test_one_that_is_refused_says_why(model: Any) -> None:
    """The reason is the plugin's, and names near it are shown."""
    with pytest.raises(UnknownLayer, match=r"'mid\.2' in.*The last block is another\..*mid\.1"):
        model.capture("mid.2")


def test_a_name_that_nobody_gives(model: Any) -> None:
    """It has the form of one, so the error says what to install."""
    with pytest.raises(UnknownLayer, match="pip install tenterhook-interiors"):
        model.capture("resid_post.0")


def test_a_module_of_that_name_wins(model: Any) -> None:
    """What is really in the model is meant first."""
    model.module.mid = nn.ModuleList([nn.Identity()])

    assert type(model.layers.index.resolve("mid.0").module) is nn.Identity
    assert [at.name for at in model.layers.index.expand(["mid.*"])] == ["mid.0"]


@pytest.mark.parametrize(
    ("find", "cause"),
    [
        (lambda module: 1 / 0, "ZeroDivisionError"),
        (lambda module: {}, "it returned a dict, which has no names of layers"),
        (lambda module: Points(layers={"bad.0": "k"}), "it names 'k', not in this Model"),
    ],
    ids=["raises", "returns something else", "names what is not there"],
)
def test_a_plugin_that_fails_is_passed_over(
    model: Any,
    offered: PluginManager,
    monkeypatch: pytest.MonkeyPatch,
    find: Any,
    cause: str,
) -> None:
    """With a warning that names it; another's points are there."""
    monkeypatch.setitem(globals(), "bad", find)

    class Bad:
        @hookimpl
        def tenterhook_points(self) -> list[Extension]:
            return [Extension("bad", f"{__name__}:bad", "Fails.")]

    offered.register(Bad(), "bad")
    with pytest.warns(PluginWarning, match=rf"Points 'bad' of plugin 'bad' failed: .*{cause}"):
        assert "mid.0" in model.layers.list_layers(points=True)


def test_threads_find_the_same_points(model: Any) -> None:
    """Each asks first; the plugin is asked once."""
    found: list[nn.Module] = []
    start = threading.Barrier(4)

    def look() -> None:
        start.wait()
        found.append(model.layers.index.resolve("mid.0").module)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert len({id(each) for each in found}) == 1
    assert len(ASKED) == 1


def test_who_is_here() -> None:
    """What runs in this thread: hooks that are registered, those of its scopes, and captures."""
    model = tenterhook.attach(Model())
    point: Any = model.layers.index.resolve("mid.0").module
    assert point.here() == []
    with model.capture("mid.0", missing="ignore"):
        (capture,) = point.here()
        assert capture.records
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append(point.here()))
        thread.start()
        thread.join()
        assert seen == [[]]
    with model.steer("mid.0", lambda x: x, missing="ignore"):
        assert [each.hook.controls for each in point.here()] == [True]
        with model.without_controllers():
            assert point.here() == []


def test_others_torch_hooks_count_as_use() -> None:
    """A point is a module: a plain torch hook on it has the plugin call it."""
    model = Model()
    point: Any = tenterhook.attach(model).layers.index.resolve("mid.0").module
    handle = point.register_forward_hook(lambda module, args, output: output * 0)
    assert model(torch.ones(1)).tolist() == [7.0]
    handle.remove()
    assert model(torch.ones(1)).tolist() == [15.0]
    assert not point.used
