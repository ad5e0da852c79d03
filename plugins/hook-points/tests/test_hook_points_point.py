"""`HookPoint`: what hooks see, what they may do, how they come and go."""

import functools
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from tenterhook_hook_points import BaseTensorConversion, HookPoint, LensHandle

X = torch.arange(6.0).reshape(2, 3)


def double(tensor: Tensor, hook: HookPoint) -> Tensor:
    """Replace the tensor by twice itself."""
    return tensor * 2


def keep(tensor: Tensor, hook: HookPoint) -> None:
    """Keep the tensor."""


class Unprintable:
    """Fails whoever formats it."""

    def __repr__(self) -> str:
        raise AssertionError("formatted")

    __str__ = __repr__

    def __call__(self, tensor: Tensor, hook: HookPoint, big: Any = None) -> None:
        """Keep the tensor."""
        return None


class Flat(BaseTensorConversion):
    """Shows hooks one axis."""

    def convert(self, tensor: Tensor) -> Tensor:
        """Flatten."""
        self.shape = tensor.shape
        return tensor.reshape(-1)

    def revert(self, tensor: Tensor) -> Tensor:
        """Put the shape back."""
        return tensor.reshape(self.shape)


class TestForward:
    """Forward hooks."""

    def test_idle(self) -> None:
        """The input itself comes back."""
        point = HookPoint()
        assert point(X) is X
        assert point.name is None
        assert point.ctx == {}
        assert (point.fwd_hooks, point.bwd_hooks) == ([], [])
        assert point.hook_conversion is None
        assert point.backward_scale == 1.0

    def test_none_keeps(self) -> None:
        """A hook that returns nothing leaves the very tensor; it is given the point by name."""
        point, seen = HookPoint(), []
        point.add_hook(lambda tensor, hook: seen.append((tensor, hook)))
        assert point(X) is X
        assert seen == [(X, point)]

    def test_order(self) -> None:
        """Hooks see what those before them returned; `prepend` runs first and leads the list."""
        point = HookPoint()
        plus = point.add_hook(lambda tensor, hook: tensor + 1)
        twice = point.add_hook(double)
        assert torch.equal(point(X), (X + 1) * 2)
        first = point.add_hook(lambda tensor, hook: tensor * 0, prepend=True)
        assert point.fwd_hooks == [first, plus, twice]
        assert torch.equal(point(X), torch.full_like(X, 2))

    def test_in_place(self) -> None:
        """A hook may write to the tensor and return it, or nothing."""
        point = HookPoint()

        def zero(tensor: Tensor, hook: HookPoint) -> None:
            tensor[0] = 0

        point.add_hook(zero)
        assert point(X.clone())[0].tolist() == [0, 0, 0]

    def test_handle(self) -> None:
        """What comes back says what is attached; torch's handle takes it off too."""
        point = HookPoint()
        handle = point.add_hook(double, level=3)
        assert isinstance(handle, LensHandle)
        assert isinstance(handle.hook, RemovableHandle)
        assert (handle.is_permanent, handle.context_level) == (False, 3)
        assert handle.user_hook is double
        handle.hook.remove()
        assert not point.fwd_hooks
        assert not point.has_hooks()
        assert point(X) is X

    def test_handle_of_ones_own(self) -> None:
        """A handle can be made by hand, by position."""
        torch_handle = RemovableHandle(OrderedDict())
        handle = LensHandle(torch_handle, True, 2, double)
        assert handle.hook is torch_handle
        assert (handle.is_permanent, handle.context_level, handle.user_hook) == (True, 2, double)
        plain = LensHandle(torch_handle)
        assert (plain.is_permanent, plain.context_level, plain.user_hook) == (False, None, None)

    def test_goes_through_torch(self) -> None:
        """Subclasses that watch torch's own doors see every hook come."""
        calls = []

        class Watched(HookPoint):
            def register_forward_hook(self, *args: Any, **kwargs: Any) -> Any:
                calls.append(("fwd", kwargs))
                return super().register_forward_hook(*args, **kwargs)

            def register_full_backward_hook(self, *args: Any, **kwargs: Any) -> Any:
                calls.append(("bwd", kwargs))
                return super().register_full_backward_hook(*args, **kwargs)

        point = Watched()
        point.add_hook(double)
        point.add_hook(double, prepend=True)
        point.add_hook(double, dir="bwd", prepend=True)
        assert calls == [
            ("fwd", {"prepend": False}),
            ("fwd", {"prepend": True}),
            ("bwd", {"prepend": True}),
        ]

    @pytest.mark.parametrize("dir", ["both", "forward", ""])
    def test_wrong_direction(self, dir: str) -> None:
        """A direction that is none says which there are."""
        point = HookPoint()
        with pytest.raises(ValueError, match="'fwd', 'bwd'"):
            point.add_hook(double, dir=dir)
        with pytest.raises(ValueError, match="'fwd', 'bwd'"):
            point.add_perma_hook(double, dir=dir)
        if dir != "both":
            with pytest.raises(ValueError, match="'fwd', 'bwd', 'both'"):
                point.has_hooks(dir)
            with pytest.raises(ValueError, match="'fwd', 'bwd', 'both'"):
                point.remove_hooks(dir)

    def test_not_callable(self) -> None:
        """What cannot be called is refused when it is put on."""
        with pytest.raises(TypeError, match=r"hook\(tensor, hook=point\), and a str cannot"):
            HookPoint().add_hook("double")  # type: ignore[arg-type]

    @pytest.mark.parametrize("dir", ["fwd", "bwd"])
    def test_never_formatted(self, dir: str) -> None:
        """Neither a hook nor a partial's arguments are formatted, by attaching or by `repr`."""
        point = HookPoint()
        point.add_hook(functools.partial(Unprintable(), big=Unprintable()), dir=dir)
        point.add_hook(Unprintable(), dir=dir)
        repr(point)
        repr(point.fwd_hooks + point.bwd_hooks)
        point(X.clone().requires_grad_()).sum().backward()

    def test_an_error_is_not_formatted_either(self) -> None:
        """The note on an error names the class of a hook without a name."""
        point = HookPoint()
        point.name = "here"
        point.add_hook(functools.partial(lambda tensor, hook, big: 1 / 0, big=Unprintable()))
        with pytest.raises(ZeroDivisionError) as caught:
            point(X)
        assert caught.value.__notes__ == ["Raised by hook partial at hook point 'here'."]

    @pytest.mark.parametrize("dir", ["fwd", "bwd"])
    def test_an_error_names_the_point(self, dir: str) -> None:
        """The exception passes as it is, with a note."""

        class Stop(Exception):
            pass

        def stop(tensor: Tensor, hook: HookPoint) -> None:
            raise Stop

        point = HookPoint()
        point.name = "blocks.0.hook_q"
        point.add_hook(stop, dir=dir)
        with pytest.raises(Stop) as caught:
            point(X.clone().requires_grad_()).sum().backward()
        assert "stop at hook point 'blocks.0.hook_q'" in "".join(caught.value.__notes__)

    @pytest.mark.parametrize("dir", ["fwd", "bwd"])
    def test_not_a_tensor(self, dir: str) -> None:
        """What is no tensor takes no tensor's place."""
        point = HookPoint()
        point.add_hook(lambda tensor, hook: 3, dir=dir)
        with pytest.raises(TypeError, match="returned a int; return a tensor, or None"):
            point(X.clone().requires_grad_()).sum().backward()


class TestRemoving:
    """What goes and what stays."""

    def test_by_level_and_permanence(self) -> None:
        """Only what is asked for: permanent ones of another level stay, asked for or not."""
        point = HookPoint()
        plain, levelled = point.add_hook(keep), point.add_hook(keep, level=1)
        permanent = point.add_perma_hook(keep)
        permanent_levelled = point.add_hook(keep, is_permanent=True, level=1)

        assert point.has_hooks(level=1)
        assert not point.has_hooks(level=2)
        point.remove_hooks(level=1)
        assert point.fwd_hooks == [plain, permanent, permanent_levelled]
        assert not point.has_hooks(level=1, including_permanent=False)
        point.remove_hooks(level=1, including_permanent=True)
        assert point.fwd_hooks == [plain, permanent]
        assert levelled not in point.fwd_hooks
        point.remove_hooks()
        assert point.fwd_hooks == [permanent]
        assert point.has_hooks()
        assert not point.has_hooks(including_permanent=False)
        point.remove_hooks(including_permanent=True)
        assert not point._forward_hooks

    def test_by_direction(self) -> None:
        """The default direction is forward."""
        point = HookPoint()
        forward, backward = point.add_hook(keep), point.add_hook(keep, dir="bwd")
        assert (point.has_hooks("fwd"), point.has_hooks("bwd")) == (True, True)
        point.remove_hooks()
        assert (point.fwd_hooks, point.bwd_hooks) == ([], [backward])
        point.add_hook(keep)
        point.remove_hooks("bwd")
        assert not point.bwd_hooks
        assert not point._forward_pre_hooks
        assert len(point._forward_hooks) == len(point.fwd_hooks) == 1
        point.remove_hooks("both")
        assert not point.has_hooks()
        assert forward.user_hook is keep

    def test_others_stay(self) -> None:
        """Torch hooks of other people are left alone."""
        point = HookPoint()
        point.register_forward_hook(lambda *_: None)
        point.add_hook(keep)
        point.remove_hooks("both", including_permanent=True)
        assert len(point._forward_hooks) == 1

    def test_context(self) -> None:
        """A hook's own state, until it is cleared."""
        point = HookPoint()
        point.add_hook(lambda tensor, hook: hook.ctx.update(seen=tensor))
        point(X)
        assert point.ctx["seen"] is X
        point.clear_context()
        assert point.ctx == {}


class TestNames:
    """The name, and what is made of it."""

    @pytest.mark.parametrize(
        ("name", "number"),
        [("blocks.3.attn.hook_q", 3), ("blocks.12.hook_resid_post", 12), ("h.0", 0)],
    )
    def test_layer(self, name: str, number: int) -> None:
        """The block's number."""
        point = HookPoint()
        point.name = name
        assert point.layer() == number

    def test_no_layer(self) -> None:
        """No name, or none with a number."""
        point = HookPoint()
        with pytest.raises(ValueError, match="no name yet"):
            point.layer()
        point.name = "hook_embed"
        with pytest.raises(ValueError, match="'hook_embed' is in no block"):
            point.layer()

    def test_repr(self) -> None:
        """The name and how much is attached."""
        point = HookPoint()
        assert repr(point) == "HookPoint()"
        point.name = "hook_embed"
        assert repr(point) == "HookPoint(name='hook_embed')"
        point.add_hook(keep)
        point.add_perma_hook(keep)
        point.add_hook(keep, dir="bwd")
        assert repr(point) == "HookPoint(name='hook_embed', 2 fwd, 1 bwd)"


class TestAliases:
    """A hook that runs once per name."""

    @pytest.mark.parametrize("dir", ["fwd", "bwd"])
    def test_each_sees_the_last(self, dir: str) -> None:
        """Runs go in order, each on what the last returned; `None` keeps what is there."""
        point, seen = HookPoint(), []
        point.name = "real"

        def edit(tensor: Tensor, hook: HookPoint) -> Tensor | None:
            assert isinstance(hook, HookPoint)
            seen.append((hook.name, tensor[0, 0].item()))
            return {"a": tensor + 1, "b": None, "c": tensor * 10}[str(hook.name)]

        point.add_hook(edit, dir=dir, alias_names=["a", "b", "c"])
        given = torch.zeros(1, 1, requires_grad=True)
        out = point(given)
        (out * 0 if dir == "bwd" else out).sum().backward()
        assert seen == [("a", 0), ("b", 1), ("c", 1)]
        assert (given.grad if dir == "bwd" else out).item() == 10  # type: ignore[union-attr]
        assert point.name == "real"

    def test_stands_for_the_point(self) -> None:
        """It has the point's state, and the alias' block number."""
        point = HookPoint()
        layers = []

        def note(tensor: Tensor, hook: HookPoint) -> None:
            hook.ctx["ran"] = True
            layers.append(hook.layer())

        point.add_hook(note, alias_names=("blocks.7.old",))
        point(X)
        assert point.ctx == {"ran": True}
        assert layers == [7]

    def test_one_name(self) -> None:
        """A lone string is one name, not its letters."""
        point, seen = HookPoint(), []
        point.add_hook(lambda tensor, hook: seen.append(hook.name), alias_names="old")
        point(X)
        assert seen == ["old"]


class TestConversion:
    """What hooks see in place of the tensor."""

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("aliases", [None, ["a"]])
    def test_forward(self, when: str, aliases: list[str] | None) -> None:
        """Hooks see the converted tensor, their replacement is reverted; each one anew."""
        point, shapes = HookPoint(), []

        def edit(tensor: Tensor, hook: HookPoint) -> Tensor:
            shapes.append(tuple(tensor.shape))
            return tensor + tensor[1]

        if when == "before":
            point.enable_reshape(Flat())
        point.add_hook(edit, alias_names=aliases)
        point.add_hook(edit, alias_names=aliases)
        point.enable_reshape(Flat())
        assert torch.equal(point(X), X + 3)
        point.enable_reshape(None)
        assert point.hook_conversion is None
        point(X)
        assert shapes == [(6,), (6,), (2, 3), (2, 3)]

    def test_set_as_attribute(self) -> None:
        """Setting the attribute is the same, whatever class the conversion has."""

        class Module(nn.Module):
            def convert(self, tensor: Tensor) -> Tensor:
                return tensor.T

            def revert(self, tensor: Tensor) -> Tensor:
                return tensor.T

        point, shapes = HookPoint(), []
        point.add_hook(lambda tensor, hook: shapes.append(tuple(tensor.shape)))
        point.hook_conversion = conversion = Module()
        point(X)
        assert point.hook_conversion is conversion
        assert not list(point.children())
        point.hook_conversion = None
        point(X)
        assert shapes == [(3, 2), (2, 3)]

    def test_backward(self) -> None:
        """Gradients are converted too."""
        point = HookPoint()
        point.enable_reshape(Flat())
        point.add_hook(lambda grad, hook: grad * torch.arange(6.0), dir="bwd")
        given = X.clone().requires_grad_()
        point(given).sum().backward()
        assert given.grad is not None
        assert torch.equal(given.grad, X)

    def test_none_keeps(self) -> None:
        """A hook that returns nothing leaves the very tensor."""
        point = HookPoint()
        point.enable_reshape(Flat())
        point.add_hook(keep)
        assert point(X) is X

    def test_no_way_back(self) -> None:
        """Without a `revert` of its own a conversion's replacement is taken as it is."""

        class Wide(BaseTensorConversion):
            def convert(self, tensor: Tensor) -> Tensor:
                return tensor.double()

        point = HookPoint()
        point.enable_reshape(Wide())
        point.add_hook(double)
        assert torch.equal(point(X), X.double() * 2)

    def test_not_a_conversion(self) -> None:
        """Anything else is refused at once."""
        with pytest.raises(TypeError, match=r"needs convert\(tensor\) and revert\(tensor\)"):
            HookPoint().enable_reshape(lambda tensor: tensor)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="abstract"):
            BaseTensorConversion()  # type: ignore[abstract]
