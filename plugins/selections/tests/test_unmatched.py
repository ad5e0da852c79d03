"""Why a selection matched nothing: the report names the likeliest cause."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.errors import HookWarning, NeverFired
from tenterhook.hooks import Controller


class _Texts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.line = nn.Embedding(50, 8), nn.Linear(8, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        out: Tensor = self.line(self.embed(input_ids))
        return out


IDS = torch.arange(8).reshape(2, 4)


@pytest.mark.parametrize(
    ("selected", "given", "said"),
    [
        ({"tokens": 9}, {}, r"longest row had 4 tokens and the model got no attention mask"),
        (
            {"tokens": 3},
            {"attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0]])},
            r"matched no token at 'line'\. The longest row had 3 tokens\.",
        ),
        (
            {"tokens": ":"},
            {"attention_mask": torch.zeros(2, 4)},
            r"All that it was given was padding, or of rows that had ended",
        ),
        ({"phase": "generated"}, {}, r"Nothing was generated: the model was called"),
    ],
    ids=["short", "padded", "padding", "phase"],
)
def test_why(selected: dict[str, Any], given: dict[str, Any], said: str) -> None:
    """What the model was given says it."""
    model = tenterhook.attach(_Texts())
    with pytest.warns(HookWarning, match=said), model.capture("line", **selected):
        model(IDS, **given)
    with pytest.warns(HookWarning, match=said), model.steer("line", torch.neg, **selected):
        model(IDS, **given)


def test_another_object() -> None:
    """A part that was called by itself is not what was attached."""
    model = tenterhook.attach(_Texts())
    said = "The _Texts that was attached was not called, but a part of it"
    with pytest.warns(HookWarning, match=said), model.capture("line", tokens=9):
        model.module.get_submodule("line")(torch.ones(2, 4, 8))


class _Doubles(Controller):
    def modify_activations(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        return 2 * output


class TestRegistered:
    """A registered hook is reported after a run of the attached model, or when it is taken off."""

    def test_run(self) -> None:
        """After the first run, once."""
        model = tenterhook.attach(_Texts())
        model.layers.register_hook("line", _Doubles(), tokens=9)
        with pytest.warns(HookWarning, match=r"matched no token at 'line'\. The longest row had 4"):
            model(IDS)
        model(IDS)
        model.layers.clear()

    @pytest.mark.parametrize("way", ["unregister", "handle", "clear"])
    def test_taken_off(self, way: str) -> None:
        """Where the module itself is called, nobody knows when a run is over: when it goes."""
        model = tenterhook.attach(_Texts())
        hook = _Doubles()
        model.layers.register_hook("line", hook, tokens=9)
        model.module(IDS)
        ((_, handle),) = model.context._hook_registry["line"][hook.hook_type]
        off = {
            "unregister": lambda: model.layers.unregister_hook(hook),
            "handle": handle.remove,
            "clear": model.layers.clear,
        }[way]
        with pytest.warns(HookWarning, match="matched no token at 'line'") as found:
            off()
        assert [each.filename for each in found] == [__file__]
        tenterhook.assert_clean(model)

    @pytest.mark.parametrize(
        "selected",
        [{"phase": "generated"}, {"tokens": "generated"}, {"step": 3}],
        ids=["phase", "word", "step"],
    )
    def test_waits(self, selected: dict[str, Any]) -> None:
        """What a later run may well have is not reported before it is taken off."""
        model = tenterhook.attach(_Texts())
        hook_id = model.layers.register_hook("line", _Doubles(), **selected)
        for _ in range(2):
            model(IDS)
        with pytest.warns(HookWarning, match="matched no token at 'line'"):
            model.layers.unregister_hook(hook_id)

    def test_matched(self) -> None:
        """What matched once, or was never called, is not reported."""
        model = tenterhook.attach(_Texts())
        model.layers.register_hook("line", _Doubles(), tokens=3)
        model.layers.register_hook("embed", _Doubles(), tokens=9)
        model.module(IDS)
        model.layers.disable_all_hooks()
        model.module(IDS[:, :2])
        with pytest.warns(HookWarning, match="matched no token at 'embed'") as found:
            model.layers.clear()
        assert len(found) == 1
        model.layers.register_hook("line", _Doubles(), tokens=9)
        model.layers.clear()

    def test_raises(self) -> None:
        """With `missing="raise"` it is an error, and all that was to go is gone."""
        model = tenterhook.attach(_Texts(), missing="raise")
        model.layers.register_hook("line", _Doubles(), tokens=9)
        with pytest.raises(NeverFired, match="matched no token at 'line'"):
            model(IDS)
        model.layers.clear()
        for layer in ("embed", "line"):
            model.layers.register_hook(layer, _Doubles(), tokens=9)
        model.module(IDS)
        with pytest.raises(NeverFired, match=r"'embed'.*(?s:.)*'line'"):
            model.layers.clear()
        tenterhook.assert_clean(model)

    def test_ignored(self) -> None:
        """Nor is it with `missing="ignore"`."""
        model = tenterhook.attach(_Texts(), missing="ignore")
        model.layers.register_hook("line", _Doubles(), tokens=9)
        model(IDS)
        model.layers.clear()
