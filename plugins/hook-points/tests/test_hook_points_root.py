"""`HookedRootModule`: names, hooks by name, scopes, undoing, caches."""

import inspect
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook_hook_points import (
    ActivationCache,
    BaseTensorConversion,
    HookedRootModule,
    HookIntrospectionMixin,
    HookPoint,
    UnknownHookPoint,
)

NAMES = [
    "hook_embed",
    *(
        f"blocks.{block}.{name}"
        for block in (0, 1)
        for name in ("hook_resid_pre", "hook_resid_post", "mlp.hook_post")
    ),
]
POSTS = ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]


def keep(tensor: Tensor, hook: HookPoint) -> None:
    """Keep the tensor."""


def negate(tensor: Tensor, hook: HookPoint) -> Tensor:
    """Replace the tensor."""
    return -tensor


FILTERS = pytest.mark.parametrize(
    ("names", "expected"),
    [
        (None, NAMES),
        ("hook_embed", ["hook_embed"]),
        ("blocks.*.hook_resid_post", POSTS),
        (lambda name: name.endswith("resid_post"), POSTS),
        (lambda name: False, []),
        (POSTS[::-1], POSTS),
        (tuple(POSTS), POSTS),
        (set(POSTS), POSTS),
        (["hook_*", lambda name: name == POSTS[1]], ["hook_embed", POSTS[1]]),
        ([], []),
    ],
    ids=[
        *("all", "name", "glob", "predicate", "predicate of none"),
        *("list", "tuple", "set", "mixed", "empty"),
    ],
)


class TestSetup:
    """What `setup` finds."""

    def test_names(self, model: HookedRootModule) -> None:
        """Every submodule is named, points and others."""
        assert list(model.hook_dict) == NAMES
        assert list(model.hook_points()) == list(model.hook_dict.values())
        assert list(model.mod_dict) == [name for name, _ in model.named_modules() if name]
        assert {name: module.name for name, module in model.mod_dict.items()} == {
            name: name for name in model.mod_dict
        }
        assert model.hook_dict["blocks.1.mlp.hook_post"].layer() == 1

    def test_again(self, model: HookedRootModule) -> None:
        """Points that came later are found by another call."""
        model.add_module("hook_late", HookPoint())
        assert "hook_late" not in model.hook_dict
        model.setup()
        assert model.hook_dict["hook_late"].name == "hook_late"

    def test_modules_that_cannot_be_named(self) -> None:
        """A module with a read-only name, or a submodule of that name, keeps what it has."""

        class Named(nn.Module):
            @property
            def name(self) -> str:
                return "mine"

        class Root(HookedRootModule):
            def __init__(self) -> None:
                super().__init__()
                self.named = Named()
                self.child = nn.Module()
                self.child.add_module("name", HookPoint())
                self.setup()

        root = Root()
        assert root.named.name == "mine"
        assert list(root.hook_dict) == ["child.name"]

    def test_not_called(self) -> None:
        """A model that was not set up says so."""

        class Forgot(HookedRootModule):
            def __init__(self) -> None:
                super().__init__()
                self.hook_x = HookPoint()

        with pytest.raises(UnknownHookPoint, match=r"Call self\.setup\(\) at the end"):
            Forgot().add_hook("hook_x", keep)


class TestUnknown:
    """A name that means nothing."""

    @pytest.mark.parametrize(
        "use",
        [
            lambda m, x, name: m.add_hook(name, keep),
            lambda m, x, name: m.add_perma_hook(name, keep),
            lambda m, x, name: m.run_with_hooks(x, fwd_hooks=[(name, keep)]),
            lambda m, x, name: m.run_with_hooks(x, bwd_hooks=[(name, keep)]),
            lambda m, x, name: m.run_with_cache(x, names_filter=name),
            lambda m, x, name: m.run_with_cache(x, names_filter=["hook_embed", name]),
            lambda m, x, name: m.get_caching_hooks(name),
            lambda m, x, name: m.add_caching_hooks(name),
            lambda m, x, name: m.cache_some({}, name),
            lambda m, x, name: m.list_hooks(name),
        ],
        ids=[
            *("add_hook", "add_perma_hook", "run_with_hooks", "backward", "run_with_cache"),
            *("in a list", "get_caching_hooks", "add_caching_hooks", "cache_some", "list_hooks"),
        ],
    )
    def test_names_the_closest(self, use: Any, model: HookedRootModule, x: Tensor) -> None:
        """Wherever a name is taken; and nothing is attached."""
        with pytest.raises(UnknownHookPoint) as caught:
            use(model, x, "blocks.0.hook_resid_pst")
        assert "'blocks.0.hook_resid_post'" in str(caught.value)
        assert isinstance(caught.value, KeyError)
        assert isinstance(caught.value, ValueError)
        assert model.list_hooks() == {}

    def test_after_a_known_one(self, model: HookedRootModule, x: Tensor) -> None:
        """What was attached before the mistake is taken off again."""
        with (
            pytest.raises(UnknownHookPoint, match="matches none"),
            model.hooks([("hook_embed", keep), ("blocks.*.hook_q", keep)]),
        ):
            pass
        assert model.list_hooks() == {}
        with (
            pytest.raises(UnknownHookPoint),
            model.hooks([("hook_embed", keep), ("x", keep)], [], False),
        ):
            pass
        assert model.list_hooks() == {}

    def test_no_point(self, model: HookedRootModule) -> None:
        """Another module's name says what that is."""
        with pytest.raises(UnknownHookPoint, match="That is a Linear, which is none"):
            model.add_hook("blocks.0.linear", keep)

    def test_no_filter(self, model: HookedRootModule) -> None:
        """What is no filter says what one is."""
        for wrong in (3, [3]):
            with pytest.raises(TypeError, match=r"int names no hook points\. Give a name"):
                model.add_hook(wrong, keep)  # type: ignore[arg-type]


class TestAdding:
    """Hooks that stay until they are taken off."""

    @FILTERS
    def test_where(self, names: Any, expected: list[str], model: HookedRootModule) -> None:
        """Every kind of filter."""
        handles = model.add_hook(names, keep)
        assert len(handles) == len(expected)
        assert list(model.list_hooks()) == expected
        assert list(model.list_hooks(names)) == expected

    def test_settings(self, model: HookedRootModule) -> None:
        """Direction, permanence, level and order reach the point."""
        model.add_hook("hook_embed", keep, level=4)
        (first,) = model.add_hook("hook_embed", negate, is_permanent=True, prepend=True)
        (backward,) = model.add_perma_hook("hook_embed", keep, dir="bwd")
        point = model.hook_dict["hook_embed"]
        assert point.fwd_hooks[0] is first
        assert point.fwd_hooks[1].context_level == 4
        assert point.bwd_hooks == [backward]
        assert backward.is_permanent
        assert model.list_hooks() == {"hook_embed": [*point.fwd_hooks, backward]}
        assert model.list_hooks(dir="bwd") == {"hook_embed": [backward]}
        assert model.list_hooks(including_permanent=False) == {"hook_embed": [point.fwd_hooks[1]]}

    @pytest.mark.parametrize("dir", ["both", "up"])
    def test_wrong_direction(self, dir: str, model: HookedRootModule) -> None:
        """Wherever one is given, at once."""
        with pytest.raises(ValueError, match=f"dir='{dir}' is not one of 'fwd', 'bwd'"):
            model.add_hook(lambda name: False, keep, dir=dir)
        if dir != "both":
            with pytest.raises(ValueError, match="dir='up'"):
                model.list_hooks(dir=dir)
            with pytest.raises(ValueError, match="direction='up'"):
                model.reset_hooks(direction=dir)
            with pytest.raises(ValueError, match="direction='up'"):
                model.remove_all_hook_fns(direction=dir)

    def test_check_and_add_hook(self, model: HookedRootModule, x: Tensor) -> None:
        """A subclass may refuse a hook; what a scope had attached is taken off then."""

        class Strict(type(model)):  # type: ignore[misc]
            def check_hooks_to_add(self, hook_point: Any, name: str, *_: Any, **__: Any) -> None:
                if name.endswith("hook_post"):
                    raise PermissionError(name)

        strict = Strict()
        point = strict.hook_dict["hook_embed"]
        handle = strict.check_and_add_hook(point, "hook_embed", keep)
        assert point.fwd_hooks == [handle]
        with pytest.raises(PermissionError, match=r"blocks\.0\.mlp"):
            strict.run_with_hooks(x, fwd_hooks=[(None, keep)])
        with pytest.raises(PermissionError, match=r"blocks\.0\.mlp"):
            strict.run_with_cache(x, names_filter="blocks.*")
        assert strict.list_hooks() == {"hook_embed": [handle]}

    def test_what_the_model_refuses_is_passed_over(self, x: Tensor) -> None:
        """Where all points are to be cached, those are that the model's own check allows."""

        class Strict(HookedRootModule):
            def __init__(self) -> None:
                super().__init__()
                self.hook_a, self.hook_result, self.uses_result = HookPoint(), HookPoint(), False
                self.setup()

            def forward(self, x: Tensor) -> Tensor:
                if self.uses_result:
                    self.hook_result(x)
                total: Tensor = self.hook_a(x).sum()
                return total

            def check_hooks_to_add(
                self, hook_point: HookPoint, hook_point_name: str, *_: Any, **__: Any
            ) -> None:
                assert self.uses_result or hook_point_name == "hook_a", "set uses_result first"

        strict = Strict()
        x.requires_grad_()
        assert list(strict.run_with_cache(x)[1]) == ["hook_a"]
        assert set(strict.run_with_cache(x, incl_bwd=True)[1]) == {"hook_a", "hook_a_grad"}
        assert [name for name, _ in strict.get_caching_hooks()[1]] == ["hook_a"]
        assert list(strict.add_caching_hooks()) == []
        assert list(strict.list_hooks()) == ["hook_a"]
        strict.reset_hooks()
        for names in ("hook_result", "hook_*", ["hook_a", "hook_result"]):
            with pytest.raises(AssertionError, match="set uses_result first"):
                strict.run_with_cache(x, names_filter=names)
        strict.uses_result = True
        assert set(strict.run_with_cache(x)[1]) == {"hook_a", "hook_result"}
        assert strict.list_hooks() == {}

    def test_reset(self, model: HookedRootModule, x: Tensor) -> None:
        """Permanent hooks stay unless asked for; contexts are cleared unless asked not to."""
        model.add_hook(None, lambda tensor, hook: hook.ctx.update(ran=True))
        model.add_perma_hook("hook_embed", keep)
        model(x)
        model.reset_hooks(clear_contexts=False)
        assert all(point.ctx == {"ran": True} for point in model.hook_points())
        assert list(model.list_hooks()) == ["hook_embed"]
        model.reset_hooks()
        assert all(point.ctx == {} for point in model.hook_points())
        model.reset_hooks(including_permanent=True, level=1)
        assert list(model.list_hooks()) == ["hook_embed"]
        model.reset_hooks(direction="bwd", including_permanent=True)
        assert list(model.list_hooks()) == ["hook_embed"]
        model.reset_hooks(including_permanent=True)
        assert model.list_hooks() == {}

    def test_remove_all(self, model: HookedRootModule) -> None:
        """The same, without a look at contexts."""
        model.add_hook("hook_embed", keep, level=1)
        model.add_hook("hook_embed", keep, dir="bwd", level=2)
        model.remove_all_hook_fns(level=2)
        assert [h.context_level for h in model.list_hooks()["hook_embed"]] == [1]
        model.remove_all_hook_fns("fwd")
        assert model.list_hooks() == {}


@pytest.mark.parametrize("method", ["hooks", "run_with_hooks"])
def test_defaults_are_lists(method: str) -> None:
    """As the vocabulary has them, for tools that look; and nobody writes to them."""
    parameters = inspect.signature(getattr(HookedRootModule, method)).parameters
    assert parameters["fwd_hooks"].default == []
    assert parameters["bwd_hooks"].default == []


class TestScopes:
    """`hooks` and `run_with_hooks`."""

    def test_run_with_hooks(self, model: HookedRootModule, x: Tensor) -> None:
        """Edits count for that run; the model's output comes back, keywords are passed on."""
        plain = model(x)
        edited = model.run_with_hooks(x, fwd_hooks=[("hook_embed", negate)])
        assert torch.equal(edited, model(-x))
        assert torch.equal(model(x), plain)
        assert model.run_with_hooks(x, total=True).shape == ()

    @pytest.mark.parametrize("entries", [["hook_embed"], ("hook_embed", keep), [(1, 2, 3)]])
    def test_entries(self, entries: Any, model: HookedRootModule, x: Tensor) -> None:
        """What is no list of pairs says what one is."""
        with pytest.raises(TypeError, match=r"is a pair, \(name, hook\), and one is a"):
            model.run_with_hooks(x, fwd_hooks=entries)
        with pytest.raises(TypeError, match=r"write fwd_hooks=\[\(name, hook\)\]"):
            model.run_with_hooks(x, bwd_hooks=entries)

    def test_nests(self, model: HookedRootModule, x: Tensor) -> None:
        """An inner scope takes off its own; so does one that ends by an exception."""
        with model.hooks(fwd_hooks=[("hook_embed", negate)]) as same:
            assert same is model
            outer = model.list_hooks()
            assert [h.context_level for h in outer["hook_embed"]] == [1]
            with model.hooks([("hook_embed", negate)]):
                levels = [h.context_level for h in model.list_hooks()["hook_embed"]]
                assert levels == [1, 2]
                assert model.context_level == 2
                assert torch.equal(model(x), _bare(model, x))
            with pytest.raises(ZeroDivisionError), model.hooks([("hook_embed", negate)]):
                raise ZeroDivisionError
            assert model.list_hooks() == outer
            assert torch.equal(model(-x), _bare(model, x))
        assert model.list_hooks() == {}
        assert model.context_level == 0

    def test_others_hooks_stay(self, model: HookedRootModule, x: Tensor) -> None:
        """Plain and permanent hooks, of whatever level, are there afterwards, in their order."""
        model.add_hook("hook_embed", keep, level=1)
        model.add_perma_hook("hook_embed", keep)
        model.add_hook("hook_embed", keep, dir="bwd")
        before = model.list_hooks()
        model.run_with_hooks(x, fwd_hooks=[(None, negate)])
        model.run_with_cache(x)
        assert model.list_hooks() == before

    def test_added_inside_stays(self, model: HookedRootModule) -> None:
        """What is added in a scope by other means is not the scope's."""
        with model.hooks([("hook_embed", keep)]):
            (added,) = model.add_hook("hook_embed", negate)
        assert model.list_hooks() == {"hook_embed": [added]}

    @pytest.mark.parametrize("inner", ["hooks", "run_with_cache"])
    def test_added_inside_at_its_level(
        self, inner: str, model: HookedRootModule, x: Tensor
    ) -> None:
        """Goes with the scope of that level; what is permanent, or was there before, stays."""
        before = model.add_hook("hook_embed", keep, level=1)

        def add(tensor: Tensor, hook: HookPoint) -> None:
            model.add_hook("hook_embed", keep, dir="bwd", level=model.context_level)

        if inner == "hooks":
            with model.hooks():
                model.add_hook("hook_embed", keep, level=1)
                (stays,) = model.add_hook("hook_embed", keep, level=1, is_permanent=True)
                assert len(model.list_hooks("hook_embed")["hook_embed"]) == 3
        else:
            (stays,) = model.add_hook("hook_embed", add)
            model.run_with_cache(x)
        assert model.list_hooks() == {"hook_embed": [*before, stays]}

    def test_reset_inside(self, model: HookedRootModule) -> None:
        """Hooks of a scope that were reset inside it are gone, and its end is quiet."""
        with model.hooks([("hook_embed", keep)], [("hook_embed", keep)]):
            model.reset_hooks()
            assert model.list_hooks() == {}
        assert model.list_hooks() == {}

    def test_no_reset_at_the_end(self, model: HookedRootModule, x: Tensor) -> None:
        """With `reset_hooks_end=False` they stay until they are reset."""
        for run in (
            lambda: model.run_with_hooks(
                x, fwd_hooks=[("hook_embed", negate)], reset_hooks_end=False
            ),
            lambda: model.run_with_cache(x, names_filter="hook_embed", reset_hooks_end=False),
        ):
            run()
            assert len(model.list_hooks()["hook_embed"]) == 1
            with model.hooks([("hook_embed", keep)]):
                pass
            assert len(model.list_hooks()["hook_embed"]) == 1
            model.reset_hooks()
            assert model.list_hooks() == {}

    def test_contexts(self, model: HookedRootModule, x: Tensor) -> None:
        """Kept at the end, or cleared."""
        entry = ("hook_embed", lambda tensor, hook: hook.ctx.update(ran=True))
        point = model.hook_dict["hook_embed"]
        model.run_with_hooks(x, fwd_hooks=[entry])
        assert point.ctx == {"ran": True}
        model.run_with_cache(x, clear_contexts=True)
        assert point.ctx == {}
        model.run_with_hooks(x, fwd_hooks=[entry], clear_contexts=True)
        assert point.ctx == {}
        with model.hooks([entry], clear_contexts=True):
            model(x)
            assert point.ctx == {"ran": True}
        assert point.ctx == {}

    def test_an_error_names_the_point(self, model: HookedRootModule, x: Tensor) -> None:
        """And every hook of the run is taken off."""

        def fail(tensor: Tensor, hook: HookPoint) -> None:
            raise RuntimeError("no")

        with pytest.raises(RuntimeError, match=re.escape(POSTS[1])):
            model.run_with_hooks(x, fwd_hooks=[(None, keep), (POSTS[1], fail)])
        assert model.list_hooks() == {}


def _bare(model: HookedRootModule, x: Tensor) -> Tensor:
    """Return what the model makes of `x` without its points."""
    for block in model.blocks:  # type: ignore[union-attr]
        x = x + block.linear(x).tanh()
    return x


class TestCaching:
    """`run_with_cache` and the hooks that fill a cache."""

    @FILTERS
    def test_names(
        self, names: Any, expected: list[str], model: HookedRootModule, x: Tensor
    ) -> None:
        """Every kind of filter; the same names from every door."""
        out, cache = model.run_with_cache(x, names_filter=names)
        assert torch.equal(out, model(x))
        assert isinstance(cache, ActivationCache)
        assert sorted(cache) == sorted(expected)
        _, moved = model.run_with_cache(x, names_filter=names, device="cpu")
        into: dict[str, Tensor] = {}
        model.cache_some(into, names)
        model(x)
        for name in expected:
            assert torch.equal(cache[name], moved[name])
            assert torch.equal(cache[name], into[name])

    def test_values(self, model: HookedRootModule, x: Tensor) -> None:
        """Detached, and what the points saw, edits by hooks before included."""
        _, cache = model.run_with_cache(x.requires_grad_())
        assert next(iter(cache)) == "hook_embed"
        assert torch.equal(cache["hook_embed"], x)
        assert torch.equal(cache[POSTS[1]], model(x))
        assert not any(tensor.requires_grad for tensor in cache.values())
        model.add_hook("hook_embed", negate)
        assert torch.equal(model.run_with_cache(x)[1]["hook_embed"], -x)

    @pytest.mark.parametrize("settings", [{}, {"device": "cpu"}, {"pos_slice": slice(0, 1)}])
    def test_own_memory(self, settings: Any, model: HookedRootModule, x: Tensor) -> None:
        """A later edit in place changes nothing, and no storage is bigger than its tensor."""
        with model.hooks([("hook_embed", lambda tensor, hook: tensor[:, :2].expand(2, 2, 4))]):
            _, cache = model.run_with_cache(x, **settings)
        for tensor in cache.values():
            assert tensor.untyped_storage().nbytes() == tensor.nbytes
        before = cache["hook_embed"].clone()
        x.zero_()
        assert torch.equal(cache["hook_embed"], before)
        storages = {tensor.untyped_storage().data_ptr() for tensor in cache.values()}
        assert len(storages) == len(cache)

    @pytest.mark.parametrize("settings", [{}, {"device": "cpu"}])
    def test_inference_mode(self, settings: Any, model: HookedRootModule, x: Tensor) -> None:
        """What was kept in inference mode can be used with gradients afterwards."""
        with torch.inference_mode():
            _, cache = model.run_with_cache(x, **settings)
        given = x.clone().requires_grad_()
        loss: Any = (given * cache["hook_embed"]).sum()
        loss.backward()
        assert torch.equal(given.grad, x)  # type: ignore[arg-type]

    def test_gradients(self, model: HookedRootModule, x: Tensor) -> None:
        """`backward` is called on the output; gradients are under `<name>_grad`."""
        loss, cache = model.run_with_cache(x, total=True, incl_bwd=True)
        assert set(cache) == {*NAMES, *(f"{name}_grad" for name in NAMES)} - {"hook_embed_grad"} - {
            "blocks.0.hook_resid_pre_grad"
        }
        assert torch.equal(cache["blocks.1.hook_resid_post_grad"], torch.ones(2, 3, 4))
        assert loss.shape == ()
        assert next(model.parameters()).grad is not None
        x.requires_grad_()
        _, cache = model.run_with_cache(x, total=True, incl_bwd=True, names_filter="hook_embed")
        assert set(cache) == {"hook_embed", "hook_embed_grad"}
        assert x.grad is not None
        assert torch.equal(cache["hook_embed_grad"], x.grad)
        assert model.list_hooks() == {}

    def test_gradients_of_a_point_that_runs_twice(self) -> None:
        """A tensor and its gradient are of the same call, the last, though it comes back first."""

        class Loop(HookedRootModule):
            def __init__(self) -> None:
                super().__init__()
                self.hook = HookPoint()
                self.setup()

            def forward(self, x: Tensor) -> Tensor:
                for _ in range(3):
                    x = self.hook(x) * 2
                return x.sum()

        model = Loop()
        for _ in range(2):
            _, cache = model.run_with_cache(torch.ones(1, requires_grad=True), incl_bwd=True)
            assert {name: tensor.item() for name, tensor in cache.items()} == {
                "hook": 4,
                "hook_grad": 2,
            }

    @pytest.mark.parametrize("settings", [{}, {"pos_slice": 0}, {"device": "cpu"}], ids=str)
    def test_what_is_no_tensor(self, settings: Any) -> None:
        """A point that returns something else is named, and can be left out."""

        class Pair(HookedRootModule):
            def __init__(self) -> None:
                super().__init__()
                self.hook_pair, self.hook_sum = HookPoint(), HookPoint()
                self.setup()

            def forward(self, x: Tensor) -> Tensor:
                a, b = self.hook_pair((x, x))
                out: Tensor = self.hook_sum(a + b)
                return out

        model = Pair()
        with pytest.raises(TypeError, match=r"'hook_pair' returned a tuple.*names_filter"):
            model.run_with_cache(torch.ones(1, 2, 3), **settings)
        assert model.list_hooks() == {}
        _, cache = model.run_with_cache(torch.ones(1, 2, 3), names_filter="hook_sum", **settings)
        assert list(cache) == ["hook_sum"]

    def test_a_conversions_error_names_the_point(self, model: HookedRootModule, x: Tensor) -> None:
        """In a plain `run_with_cache`, too."""

        class Wrong(BaseTensorConversion):
            def convert(self, tensor: Tensor) -> Tensor:
                raise RuntimeError("no way")

        model.hook_dict["hook_embed"].enable_reshape(Wrong())
        with pytest.raises(RuntimeError, match="no way") as caught:
            model.run_with_cache(x)
        assert "at hook point 'hook_embed'" in "".join(caught.value.__notes__)

    @pytest.mark.parametrize(
        ("run", "said"),
        [
            (lambda m, x: m.run_with_cache(x, incl_bwd=True), r"\(2, 3, 4\)"),
            (
                lambda m, x: m.requires_grad_(False).run_with_cache(x, total=True, incl_bwd=True),
                r"\(\) without gradients",
            ),
        ],
    )
    def test_no_loss(self, run: Any, said: str, model: HookedRootModule, x: Tensor) -> None:
        """An output that `backward` cannot start from says what is wanted."""
        with pytest.raises(ValueError, match=f"calls backward.* this one is {said}.*a loss"):
            run(model, x)
        assert model.list_hooks() == {}

    def test_no_tensor_for_a_loss(self, x: Tensor) -> None:
        """Nor anything but a tensor."""

        class Root(HookedRootModule):
            def forward(self, x: Tensor) -> list[Tensor]:
                return [x]

        with pytest.raises(ValueError, match="this one is a list"):
            Root().run_with_cache(x, incl_bwd=True)

    def test_remove_batch_dim(self, model: HookedRootModule, x: Tensor) -> None:
        """Of a batch of one; another is refused, by the point's name."""
        out, cache = model.run_with_cache(x[:1], remove_batch_dim=True)
        assert torch.equal(cache[POSTS[1]], out[0])
        assert not cache.has_batch_dim
        with pytest.raises(ValueError, match=r"'hook_embed' is \(2, 3, 4\); only a batch of one"):
            model.run_with_cache(x, remove_batch_dim=True)
        assert model.list_hooks() == {}

    @pytest.mark.parametrize(
        ("pos_slice", "expected"),
        [
            (-1, lambda t: t[:, -1:]),
            (0, lambda t: t[:, :1]),
            (slice(1, None), lambda t: t[:, 1:]),
            ((1, 3), lambda t: t[:, 1:3]),
            ((None, None, 2), lambda t: t[:, ::2]),
            ([2, 0], lambda t: t[:, [2, 0]]),
            (torch.tensor([1]), lambda t: t[:, [1]]),
            (None, lambda t: t),
        ],
        ids=["int", "first", "slice", "tuple", "step", "list", "tensor", "none"],
    )
    def test_pos_slice(
        self, pos_slice: Any, expected: Any, model: HookedRootModule, x: Tensor
    ) -> None:
        """Each spelling of a part of the sequence; of gradients too."""
        x.requires_grad_()
        _, whole = model.run_with_cache(x, total=True, incl_bwd=True)
        _, cache = model.run_with_cache(x, total=True, incl_bwd=True, pos_slice=pos_slice)
        for name, tensor in whole.items():
            assert torch.equal(cache[name], expected(tensor))

    def test_get_caching_hooks(self, model: HookedRootModule, x: Tensor) -> None:
        """A cache and the hooks that fill it, to be used with others."""
        given: dict[str, Tensor] = {}
        cache, fwd_hooks, bwd_hooks = model.get_caching_hooks(
            "blocks.*.hook_resid_post", incl_bwd=True, cache=given
        )
        assert cache is given
        assert model.list_hooks() == {}
        assert [name for name, _ in fwd_hooks] == [name for name, _ in bwd_hooks] == POSTS
        with model.hooks(fwd_hooks=[("hook_embed", negate), *fwd_hooks], bwd_hooks=bwd_hooks):
            model(x, total=True).backward()
        assert set(cache) == {*POSTS, *(f"{name}_grad" for name in POSTS)}
        assert torch.equal(cache[POSTS[1]], model(-x))

    def test_that_stay(self, model: HookedRootModule, x: Tensor) -> None:
        """`add_caching_hooks`, `cache_all`, `cache_some` fill a cache at every run, until reset."""
        cache = model.add_caching_hooks(POSTS[0], remove_batch_dim=True)
        everything: dict[str, Tensor] = {}
        some: dict[str, Tensor] = {}
        model.cache_all(everything, incl_bwd=True)
        model.cache_some(some, lambda name: "resid" in name, device="cpu")
        assert cache == {}
        model(x[:1], total=True).backward()
        assert cache[POSTS[0]].shape == (3, 4)
        assert set(NAMES) < set(everything)
        assert f"{POSTS[1]}_grad" in everything
        assert len(some) == 4
        model(x[1:])
        assert torch.equal(everything["hook_embed"], x[1:])
        model.reset_hooks()
        model(x)
        assert torch.equal(everything["hook_embed"], x[1:])

    def test_in_a_run(self, model: HookedRootModule, x: Tensor) -> None:
        """A hook may itself run the model with a cache, and sees what is attached."""
        inner: list[Any] = []

        def nested(tensor: Tensor, hook: HookPoint) -> None:
            if not inner:
                inner.append(model.list_hooks("hook_embed")["hook_embed"])
                inner.append(model.run_with_cache(tensor * 2)[1])

        model.add_hook("hook_embed", nested)
        _, cache = model.run_with_cache(x)
        assert torch.equal(cache["hook_embed"], x)
        assert torch.equal(inner[1]["hook_embed"], x * 2)
        assert [handle.context_level for handle in inner[0]] == [None, 1]

    def test_a_run_in_a_run_beside_backward_hooks(self, model: HookedRootModule, x: Tensor) -> None:
        """It leaves torch's own dictionaries as they were, their order too."""

        def look(tensor: Tensor, hook: HookPoint) -> None:
            hook.remove_hooks()  # or the inner run would come by here
            before = [list(p._forward_hooks) for p in model.hook_points()]
            model(x)
            assert [list(p._forward_hooks) for p in model.hook_points()][1:] == before[1:]

        model.add_hook(None, keep, dir="bwd")
        model.add_hook("hook_embed", look)
        _, cache = model.run_with_cache(x)
        assert set(cache) == set(NAMES)

    def test_conversion(self, model: HookedRootModule, x: Tensor) -> None:
        """A cache, like any hook, sees what the point's conversion makes."""

        class Transposed:
            def convert(self, tensor: Tensor) -> Tensor:
                return tensor.mT

            revert = convert

        model.hook_dict["hook_embed"].enable_reshape(Transposed())
        assert torch.equal(model.run_with_cache(x)[1]["hook_embed"], x.mT)
        assert torch.equal(model.run_with_cache(x, device="cpu")[1]["hook_embed"], x.mT)

    @pytest.mark.parametrize("door", ["class", "subclass", "instance", "root"])
    def test_watched(
        self, door: str, model: Any, x: Tensor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever watches how hooks come sees those of a cache too, and the cache is the same."""
        model.run_with_cache(x)
        seen = []

        def watch(owner: Any, name: str) -> None:
            original = getattr(owner, name)

            def watched(*args: Any, **kwargs: Any) -> Any:
                seen.append(name)
                return original(*args, **kwargs)

            monkeypatch.setattr(owner, name, watched)

        if door == "class":
            watch(HookPoint, "register_forward_hook")
        elif door == "instance":
            watch(model.hook_dict["hook_embed"], "register_forward_hook")
        elif door == "root":
            watch(type(model), "add_hook")
        else:
            kind = type("Watched", (HookPoint,), {})
            watch(kind, "add_hook")
            model.hook_embed = kind()
            model.setup()
        _, cache = model.run_with_cache(x)
        assert sorted(cache) == sorted(NAMES)
        assert len(seen) == (1 if door in ("subclass", "instance") else len(NAMES))

    def test_points_that_were_exchanged(self, model: HookedRootModule, x: Tensor) -> None:
        """A point that took another's place is the one that is looked at."""
        model.run_with_cache(x)
        model.hook_embed = HookPoint()
        model.setup()
        model.hook_dict["hook_embed"].add_hook(negate)
        assert torch.equal(model.run_with_cache(x)[1]["hook_embed"], -x)


class TestIntrospection:
    """`list_hooks` for any class."""

    @pytest.mark.parametrize("as_property", [True, False])
    def test_any_class(self, as_property: bool) -> None:
        """With a `hook_dict` of its own, an attribute or a property."""
        points = {"a": HookPoint(), "b": HookPoint()}

        class Mine(HookIntrospectionMixin):
            hook_dict: Any = property(lambda self: points) if as_property else points

        handle = points["b"].add_hook(keep)
        assert Mine().list_hooks() == {"b": [handle]}
        assert Mine().list_hooks(["a", "b"]) == {"b": [handle]}
        assert Mine().list_hooks("a") == {}


def test_hooks_on_points_are_not_clean(model: HookedRootModule) -> None:
    """What is on a point is ours too, permanent or not, until it is taken off."""
    name = next(iter(model.hook_dict))
    tenterhook.assert_clean(model)
    model.add_hook(name, lambda tensor, hook: None)
    model.add_perma_hook(name, lambda grad, hook: None, dir="bwd")
    found = f"1 forward hook.* at {re.escape(repr(name))}.*1 backward hook"
    with pytest.raises(tenterhook.NotClean, match=found):
        tenterhook.assert_clean(model)
    model.reset_hooks(including_permanent=True)
    tenterhook.assert_clean(model)
