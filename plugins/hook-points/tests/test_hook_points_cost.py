"""What scopes over hook points leave alone, and what they cost: counted, for times are not steady.

A scope's hooks are made once for a set of points and used again by the scopes that follow.
"""

import gc
import subprocess
import sys
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenterhook import assert_clean
from tenterhook.compiling import hooks_changed
from tenterhook_hook_points import HookedRootModule, HookPoint, UnknownHookPoint

NAMES = ["hook_embed", "blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


class Row(HookedRootModule):
    """Twelve points and nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.points = nn.ModuleList(HookPoint() for _ in range(12))
        self.setup()

    def forward(self, x: Tensor) -> Tensor:
        """Return the input."""
        for point in self.points:
            x = point(x)
        return x


def calls_of(run: Callable[[], object]) -> int:
    """Return how many Python functions a run calls: the least found, for the collector may run."""
    counted: list[int] = []

    def count(_: object, event: str, __: object) -> None:
        counted[-1] += event == "call"

    for _ in range(5):
        counted.append(0)
        sys.setprofile(count)
        try:
            run()
        finally:
            sys.setprofile(None)
    return min(counted)


def nothing(tensor: Tensor, hook: object) -> None:
    """Leave the tensor."""


def test_a_scope_calls_what_raw_hooks_do(x: Tensor) -> None:
    """Twelve hooks that come and go for a run call about what twelve of torch's do."""
    if hooks_changed():  # something was compiled in this process, where a scope looks at more
        itself = f"{__file__}::test_a_scope_calls_what_raw_hooks_do"
        alone = subprocess.run([sys.executable, "-m", "pytest", "-q", itself], capture_output=True)
        assert alone.returncode == 0, alone.stdout.decode()
        return
    model = Row()
    pairs = [(name, nothing) for name in model.hook_dict]

    def raw() -> None:
        handles = [
            point.register_forward_hook(lambda module, args, output: None)
            for point in model.hook_points()
        ]
        model(x)
        for handle in handles:
            handle.remove()

    # Each asks whose scope it is, too.
    assert calls_of(lambda: model.run_with_hooks(x, fwd_hooks=pairs)) <= calls_of(raw) + 2 * 12


class TestUsedAgain:
    """Each scope has its own hooks, on what an earlier one made."""

    def test_other_hooks(self, model: Any, x: Tensor) -> None:
        """The hooks of now run, each at its point, those given by a pattern too."""
        seen: list[tuple[int, str | None]] = []

        def saw(which: int) -> Any:
            return lambda tensor, hook: seen.append((which, hook.name))

        for which in range(3):
            pairs = [(name, saw(which)) for name in NAMES]
            model.run_with_hooks(x, fwd_hooks=[*pairs, ("blocks.*.hook_resid_pre", saw(-1))])
            pre = [f"blocks.{n}.hook_resid_pre" for n in range(2)]
            assert seen == [
                (which, NAMES[0]), (-1, pre[0]), (which, NAMES[1]), (-1, pre[1]), (which, NAMES[2])
            ]  # fmt: skip
            seen.clear()
        assert_clean(model)

    def test_nested(self, model: Any, x: Tensor) -> None:
        """A scope inside another on the same points has hooks of its own, also by one hook."""
        plain = model(x)

        def double(tensor: Tensor, hook: object) -> Tensor:
            return tensor * 2

        name = "blocks.1.hook_resid_post"
        with model.hooks([(name, double)]):
            point = model.hook_dict[name]
            assert [handle.context_level for handle in point.fwd_hooks] == [1]
            with model.hooks([(name, double), (name, double)]):
                assert [handle.context_level for handle in point.fwd_hooks] == [1, 2, 2]
                torch.testing.assert_close(model(x), plain * 8)
            torch.testing.assert_close(model(x), plain * 2)
        torch.testing.assert_close(model(x), plain)
        assert_clean(model)

    def test_after_an_exception(self, model: Any, x: Tensor) -> None:
        """What a hook raises is noted at its point; nothing stays, and the next scope is right."""

        def fails(tensor: Tensor, hook: object) -> None:
            raise KeyError("gone")

        for _ in range(2):
            with pytest.raises(KeyError) as caught:
                model.run_with_hooks(x, fwd_hooks=[(NAMES[0], fails)])
            assert "at hook point 'hook_embed'" in caught.value.__notes__[0]
            assert_clean(model)
            model.run_with_hooks(x, fwd_hooks=[(NAMES[0], nothing)])

    def test_one_that_is_no_hook(self, model: Any, x: Tensor) -> None:
        """It is refused as `add_hook` does, and so is a point that is not there."""
        with pytest.raises(TypeError, match="a int cannot be called"):
            model.run_with_hooks(x, fwd_hooks=[(NAMES[0], 3)])
        with pytest.raises(UnknownHookPoint, match="hook_embd"):
            model.run_with_hooks(x, fwd_hooks=[("hook_embd", nothing)])
        assert_clean(model)

    def test_hooks_are_let_go(self, model: Any, x: Tensor) -> None:
        """What waits for the next scope holds nothing of the user's."""

        class Heavy:
            def __call__(self, tensor: Tensor, hook: object) -> None:
                pass

        heavy = Heavy()
        gone = weakref.ref(heavy)
        model.run_with_hooks(x, fwd_hooks=[(NAMES[0], heavy)])
        del heavy
        gc.collect()
        assert gone() is None

    def test_a_subclass_has_its_say(self, x: Tensor) -> None:
        """Hooks go through an overridden `check_hooks_to_add`, as ever."""
        asked: list[str] = []

        class Checks(Row):
            def check_hooks_to_add(
                self, hook_point: HookPoint, hook_point_name: str, *_: Any, **__: Any
            ) -> None:
                asked.append(hook_point_name)

        model = Checks()
        for _ in range(2):
            model.run_with_hooks(x, fwd_hooks=[("points.3", nothing)])
        assert asked == ["points.3"] * 2


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler looks
def test_compiled_code_of_others_stays(model: Any, x: Tensor) -> None:
    """The first scope in a process that compiles has nothing compiled anew but its own model."""
    dynamo: Any = torch._dynamo
    counters = dynamo.utils.counters
    dynamo.reset()
    counters.clear()
    with dynamo.config.patch(skip_nnmodule_hook_guards=True), torch.no_grad():
        function: Any = torch.compile(torch.sin, backend="eager")
        other: Any = torch.compile(nn.Linear(4, 4), backend="eager")
        compiled: Any = torch.compile(model, backend="eager")
        plain = compiled(x)
        for each in (function, other):
            each(x)
        graphs = counters["stats"]["unique_graphs"]
        _, cache = model.run_with_cache(x)
        seen: list[Tensor] = []
        model.run_with_hooks(x, fwd_hooks=[(NAMES[0], lambda t, hook: seen.append(t))])
        with model.hooks([(NAMES[2], lambda t, hook: t * 2)]):
            torch.testing.assert_close(compiled(x), plain * 2)
        torch.testing.assert_close(compiled(x), plain)
        assert len(cache) == len(model.hook_dict)
        assert len(seen) == 1
        own = counters["stats"]["unique_graphs"]
        assert own > graphs  # of the model, whose code passed over hooks
        for each in (function, other):
            each(x)
        assert counters["stats"]["unique_graphs"] == own
    dynamo.reset()
