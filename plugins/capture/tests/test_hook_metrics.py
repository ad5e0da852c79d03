"""Counts and times of registered hooks, and where they are logged."""

import threading
from typing import Any

import pytest
import torch
from torch import nn

from tenterhook import attach
from tenterhook.capture import TensorBoard
from tenterhook.hooks import Controller, Detector, FunctionController


def model() -> nn.Sequential:
    """Two layers."""
    return nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))


class Looks(Detector):
    """Looks at outputs."""

    def process_activations(self, module: nn.Module, given: Any, output: Any) -> None:
        """Look, and do nothing."""


class Doubles(Controller):
    """Doubles outputs; raises where it is to."""

    fails = False

    def modify_activations(self, module: nn.Module, given: Any, output: Any) -> Any:
        """Return the double."""
        if self.fails:
            raise KeyError("no")
        return output * 2


def test_each_hook_is_counted_and_timed() -> None:
    """Those that stood before and those that come later; the numbers change nothing."""
    hooked = attach(model())
    x = torch.ones(2, 4)
    hooked.layers.register_hook("0", Looks(hook_id="looks"))
    hooked.layers.register_hook("1", Doubles(hook_id="doubles"))
    expected = hooked(x)

    metrics = hooked.metrics()
    hooked.layers.register_hook("1", Doubles(hook_id="later", hook_type="pre_forward"))
    hooked.layers.unregister_hook("later")
    for _ in range(3):
        assert torch.equal(hooked(x), expected)

    assert [*metrics] == ["looks", "doubles", "later"]
    assert [each.calls for each in metrics.values()] == [3, 3, 0]
    assert metrics["doubles"].layer == "1"
    assert 0 < metrics["doubles"].seconds < 60
    assert metrics["doubles"].seconds_per_call == metrics["doubles"].seconds / 3
    assert metrics["later"].seconds_per_call == 0
    assert "doubles at 1: 3 calls" in repr(metrics)


def test_it_is_off_until_asked_for_and_when_closed() -> None:
    """What was counted stays; asking again begins anew."""
    hooked = attach(model())
    hooked.layers.register_hook("0", Looks(hook_id="looks"))
    hooked(torch.ones(2, 4))
    with hooked.metrics() as metrics:
        assert hooked.metrics() is metrics
        hooked(torch.ones(2, 4))
    metrics.close()
    hooked(torch.ones(2, 4))

    assert metrics["looks"].calls == 1
    assert hooked.metrics() is not metrics
    assert hooked.metrics()["looks"].calls == 0


@pytest.mark.parametrize("kind", ["function", "selected", "backward"])
def test_hooks_of_every_kind_are_counted(kind: str) -> None:
    """Edits, which are called by a shorter way, hooks of a selection, and of gradients."""
    hooked = attach(model())
    hook: Any = FunctionController("0", lambda output: output * 2, hook_id="hook")
    selected: dict[str, Any] = {}
    if kind == "selected":
        selected = {"rows": [0]}
    elif kind == "backward":
        hook = FunctionController("0", lambda grad: grad * 2, hook_id="hook", hook_type="backward")
    hooked.layers.register_hook("0", hook, **selected)
    x = torch.ones(2, 4, requires_grad=True)
    expected = hooked(x)
    with hooked.metrics() as metrics:
        found = hooked(x)
        found.sum().backward()

    assert torch.equal(found, expected)
    assert metrics["hook"].calls == 1


def test_what_raises_is_counted_as_an_error() -> None:
    """And raises as before."""
    hooked = attach(model(), on_error="warn")
    hook = Doubles(hook_id="hook")
    hook.fails = True
    hooked.layers.register_hook("0", hook)
    with hooked.metrics() as metrics, pytest.warns(match="KeyError"):
        hooked(torch.ones(2, 4))

    assert (metrics["hook"].calls, metrics["hook"].errors) == (1, 1)
    assert "1 errors" in repr(metrics)


def test_threads_lose_no_count() -> None:
    """Each counts for itself."""
    hooked = attach(model())
    hooked.layers.register_hook("0", Looks(hook_id="looks"))
    metrics = hooked.metrics()

    def work() -> None:
        for _ in range(200):
            hooked(torch.ones(2, 4))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()

    assert metrics["looks"].calls == 800


def test_they_are_logged_by_name_under_a_step() -> None:
    """To any object with `log(values, step)`, and to TensorBoard's writer."""

    class Keeps:
        def __init__(self) -> None:
            self.calls: list[tuple[Any, ...]] = []

        def log(self, values: dict[str, Any], step: int) -> None:
            self.calls.append((values, step))

        def add_scalar(self, tag: str, scalar_value: Any, global_step: int) -> None:
            self.calls.append((tag, scalar_value, global_step))

    hooked = attach(model())
    hooked.layers.register_hook("0", Looks(hook_id="looks"))
    metrics = hooked.metrics()
    hooked(torch.ones(2, 4))
    logger, writer = Keeps(), Keeps()
    metrics.log_to(logger, TensorBoard(writer), step=7)
    TensorBoard(writer).log({"words": "none"}, 8)

    ((values, step),) = logger.calls
    assert (values["hooks/looks/calls"], values["hooks/looks/errors"], step) == (1, 0, 7)
    assert ("hooks/looks/calls", 1, 7) in writer.calls
    assert len(writer.calls) == 3
