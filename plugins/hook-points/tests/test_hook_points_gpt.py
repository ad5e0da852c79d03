"""The example model against Hugging Face's, and hook points among tenterhook's layers."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

import tenterhook
from tenterhook.hooks import LayerActivationDetector
from tenterhook_capture import save_activations
from tenterhook_capture.loading import load_model
from tenterhook_hook_points import HookedRootModule, HookPoint
from tenterhook_hook_points.errors import NotAGPT
from tenterhook_hook_points.gpt import GPTConfig, HookedGPT
from tenterhook_store import MemoryStore
from tenterhook_store.schemes import UnknownScheme

IDS = torch.randint(50, (2, 9), generator=torch.Generator().manual_seed(0))


def theirs(**settings: Any) -> Any:
    """Return a small GPT-2 with weights large enough to tell."""
    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 4, "n_embd": 32, "n_positions": 16, "vocab_size": 50}
    config = GPT2Config(**(sizes | {"initializer_range": 0.2} | settings))
    model: Any = GPT2LMHeadModel(config)
    model.eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
    return model


class TestGPT:
    """`HookedGPT`."""

    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"n_inner": 40, "activation_function": "relu"},
            {"tie_word_embeddings": False, "activation_function": "gelu"},
            {"layer_norm_epsilon": 1e-2, "activation_function": "silu"},
        ],
    )
    def test_logits(self, settings: dict[str, Any]) -> None:
        """Equal to those of the model it was made of, to 1e-4; so is the loss."""
        model = theirs(**settings)
        ours = HookedGPT.from_hugging_face(model)
        with torch.no_grad():
            expected = model(IDS, labels=IDS)
            assert (ours(IDS) - expected.logits).abs().max() < 1e-4
            assert (ours(IDS, loss=True) - expected.loss).abs() < 1e-4

    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding(self, side: str) -> None:
        """Real tokens see no padding, on either side; the loss leaves it out."""
        ours = HookedGPT.from_hugging_face(theirs())
        row = IDS[:1, :6]
        pad, none = torch.full((1, 3), 7), torch.zeros(1, 3, dtype=torch.long)
        ones = torch.ones_like(row)
        left = side == "left"
        ids = torch.cat([pad, row] if left else [row, pad], 1)
        mask = torch.cat([none, ones] if left else [ones, none], 1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        out = ours(ids, attention_mask=mask, position_ids=positions)
        assert torch.allclose(out[:, 3:] if left else out[:, :6], ours(row), atol=1e-5)
        if not left:
            loss = ours(ids, attention_mask=mask, loss=True)
            assert torch.allclose(loss, ours(row, loss=True), atol=1e-5)

    def test_points(self) -> None:
        """Every step has its point, of the shape that its name promises."""
        ours = HookedGPT.from_hugging_face(theirs())
        _, cache = ours.run_with_cache(IDS)
        assert list(ours.hook_dict) == sorted(cache, key=list(ours.hook_dict).index)
        shapes = {
            name.removeprefix("blocks.1."): tuple(tensor.shape)
            for name, tensor in cache.items()
            if "blocks.0" not in name
        }
        head, wide, looks = (2, 9, 4, 8), (2, 9, 32), (2, 4, 9, 9)
        assert shapes == {
            "hook_embed": wide,
            "hook_pos_embed": wide,
            **dict.fromkeys(("hook_resid_pre", "hook_resid_mid", "hook_resid_post"), wide),
            **dict.fromkeys(("hook_attn_out", "hook_mlp_out"), wide),
            **dict.fromkeys(("ln1.hook_scale", "ln2.hook_scale", "ln_final.hook_scale"), (2, 9, 1)),
            "ln1.hook_normalized": wide,
            "ln2.hook_normalized": wide,
            "ln_final.hook_normalized": wide,
            **{f"attn.hook_{letter}": head for letter in "qkvz"},
            "attn.hook_scores": looks,
            "attn.hook_pattern": looks,
            "attn.hook_result": (2, 9, 4, 32),
            "mlp.hook_pre": (2, 9, 128),
            "mlp.hook_post": (2, 9, 128),
        }
        pattern = cache["pattern", 1]
        assert torch.allclose(pattern.sum(-1), torch.ones(2, 4, 9))
        assert pattern.triu(1).eq(0).all()

    def test_the_residual_stream_adds_up(self) -> None:
        """What the points saw is what the stream is the sum of."""
        ours = HookedGPT.from_hugging_face(theirs())
        with torch.no_grad():
            _, cache = ours.run_with_cache(IDS)
        parts = cache.stack("attn_out").sum(0) + cache.stack("mlp_out").sum(0)
        total = cache["embed"] + cache["pos_embed"] + parts
        assert torch.allclose(total, cache["resid_post", -1], atol=1e-4)
        attn: Any = ours.get_submodule("blocks.0.attn")
        heads = cache["result", 0].sum(2) + attn.b_O
        assert torch.allclose(heads, cache["attn_out", 0], atol=1e-5)

    @pytest.mark.parametrize("name", list(HookedGPT(GPTConfig(
        n_layer=1, n_head=1, n_embd=2, n_inner=2, n_positions=2, vocab_size=2
    )).hook_dict))  # fmt: skip
    def test_every_point_counts(self, name: str) -> None:
        """A change at any of the points changes the logits, and a gradient comes by."""
        torch.manual_seed(0)
        sizes = GPTConfig(n_layer=1, n_head=1, n_embd=8, n_inner=8, n_positions=9, vocab_size=50)
        model = HookedGPT(sizes)
        edited = model.run_with_hooks(IDS, fwd_hooks=[(name, lambda t, hook: t * 1.5 + 0.1 * t**2)])
        assert not torch.equal(edited, model(IDS))
        _, cache = model.run_with_cache(IDS, loss=True, incl_bwd=True, names_filter=name)
        assert cache[f"{name}_grad"].abs().sum() > 0

    def test_pos_slice(self) -> None:
        """Positions are where each point has them: per head, in patterns, in vectors."""
        ours = HookedGPT.from_hugging_face(theirs())
        _, whole = ours.run_with_cache(IDS)
        _, last = ours.run_with_cache(IDS, pos_slice=-1)
        for name, tensor in whole.items():
            queries = name.endswith(("hook_scores", "hook_pattern"))
            expected = tensor[:, :, -1:] if queries else tensor[:, -1:]
            assert torch.equal(last[name], expected), name

    def test_too_long(self) -> None:
        """More tokens than positions."""
        with pytest.raises(ValueError, match="17 tokens are more than n_positions=16"):
            HookedGPT.from_hugging_face(theirs())(torch.zeros(1, 17, dtype=torch.long))

    @pytest.mark.parametrize(
        ("settings", "said"),
        [
            ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
            ({"activation_function": "tanh"}, "tanh"),
        ],
    )
    def test_what_it_has_not(self, settings: dict[str, Any], said: str) -> None:
        """A config that this model cannot be is refused."""
        with pytest.raises(ValueError, match=said):
            HookedGPT.from_hugging_face(theirs(**settings))

    def test_sizes(self) -> None:
        """Heads divide the width, and sizes are whole numbers."""
        sizes: dict[str, Any] = {
            "n_layer": 1, "n_head": 3, "n_embd": 8, "n_inner": 8, "n_positions": 2, "vocab_size": 2
        }  # fmt: skip
        with pytest.raises(ValueError, match="n_embd=8 does not divide into n_head=3"):
            GPTConfig(**sizes)
        with pytest.raises(ValueError, match="n_layer"):
            GPTConfig(**(sizes | {"n_head": 2, "n_layer": 0}))


class TestCompiled:
    """`torch.compile`."""

    def test_no_break_without_hooks(self, model: HookedRootModule, x: Tensor) -> None:
        """A model with points is one graph."""
        with torch.no_grad():
            compiled = torch.compile(model, backend="eager", fullgraph=True)
            assert torch.allclose(compiled(x), model(x))

    def test_hooks_before_and_after(self, model: HookedRootModule, x: Tensor) -> None:
        """One there before is in the graph; those that come and go later count at once."""
        torch._dynamo.reset()
        seen: list[Any] = []
        with torch.no_grad():
            model.add_hook("hook_embed", lambda tensor, hook: tensor * 2)
            compiled = torch.compile(model, backend="eager", fullgraph=True)
            assert torch.allclose(compiled(x), model(x))
            model.add_hook("blocks.0.hook_resid_post", lambda tensor, hook: -tensor)
            assert torch.allclose(compiled(x), model(x))
            model.reset_hooks()
            plain = model(x)
            assert torch.allclose(compiled(x), plain)
            broken = torch.compile(model, backend="eager")
            broken(x)
            with model.hooks([("hook_embed", lambda tensor, hook: seen.append(tensor))]):
                assert torch.allclose(broken(x), plain)
            assert len(seen) == 1
            with model.hooks([("hook_embed", lambda tensor, hook: -tensor)]):
                assert torch.allclose(broken(-x), plain)
            assert torch.allclose(broken(x), plain)
            assert len(seen) == 1

    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # the compiler looks
    def test_cache_and_gradients(self, model: HookedRootModule, x: Tensor) -> None:
        """A cache of a compiled model's points, and backward hooks, are right."""
        torch._dynamo.reset()
        compiled = torch.compile(model, backend="eager")
        compiled(x)
        with torch.no_grad():
            _, expected = model.run_with_cache(x)
            cache, fwd, _ = model.get_caching_hooks()
            with model.hooks(fwd):
                compiled(x)
        assert set(cache) == set(expected)
        assert all(torch.allclose(cache[name], expected[name]) for name in expected)
        grads = []
        for run in (compiled, model):
            given = x.clone().requires_grad_()
            with model.hooks(bwd_hooks=[("hook_embed", lambda grad, hook: grad * 3)]):
                run(given, total=True).backward()
            grads.append(given.grad)
        assert grads[0] is not None
        assert grads[1] is not None
        assert torch.allclose(grads[0], grads[1])


class TestOneWorld:
    """A hook point is a layer like any other."""

    def test_registry(self, model: HookedRootModule, x: Tensor) -> None:
        """Detectors, captures and steering by the point's name; one list of layers."""
        attached = tenterhook.attach(model)
        names = attached.layers.list_layers()
        assert set(model.hook_dict) < set(names)
        assert "blocks.0.linear" in names
        detector = LayerActivationDetector("blocks.0.hook_resid_post")
        attached.layers.register_hook("blocks.0.hook_resid_post", detector)
        with attached.capture("blocks.*.hook_resid_post") as captured:
            _, cache = model.run_with_cache(x)
        assert list(captured) == ["blocks.0.hook_resid_post", "blocks.1.hook_resid_post"]
        kept = detector.get_captured()
        assert kept is not None
        for mine in (kept, captured.last("blocks.0.hook_resid_post")):
            assert torch.equal(mine, cache["resid_post", 0])
        with attached.steer("hook_embed", lambda tensor: -tensor):
            assert torch.equal(model(-x), cache["resid_post", 1])
        model.reset_hooks(including_permanent=True)
        assert len(attached.layers) == 1
        attached.layers.unregister_hook(detector)
        tenterhook.assert_clean(model)

    def test_loader(self) -> None:
        """`points:` gives a language model around the same numbers."""
        plain, points = load_model("tiny:"), load_model("points:tiny:")
        texts = ["In the beginning God created", "And it came to pass"]
        out, encodings = points.inference.execute_inference(texts)  # type: ignore[attr-defined]
        expected, _ = plain.inference.execute_inference(texts)  # type: ignore[attr-defined]
        real = encodings["attention_mask"].bool()
        assert (out - expected.logits)[real].abs().max() < 1e-4
        assert points.context.model_id == "points:tiny:"
        assert points.max_tokens == plain.max_tokens
        described = points.describe_model()
        assert described["config"]["n_layer"] == 4
        assert "HookedGPT" in described["class"]
        json.dumps(described)

    def test_not_a_gpt(self, tmp_path: Path) -> None:
        """Another model says what can be had of it."""
        from transformers import AutoTokenizer, GPT2Model

        from tenterhook_tiny import model_path

        GPT2Model(theirs().config).save_pretrained(tmp_path)
        AutoTokenizer.from_pretrained(model_path()).save_pretrained(tmp_path)
        with pytest.raises(NotAGPT, match=r"it is a GPT2Model\..*takes GPT-2, Llama,"):
            load_model(f"points:{tmp_path}")
        unlike = theirs(scale_attn_by_inverse_layer_idx=True)
        unlike.save_pretrained(tmp_path)
        with pytest.raises(NotAGPT, match="scale_attn_by_inverse_layer_idx=True"):
            load_model(f"points:{tmp_path}")
        with pytest.raises(NotAGPT, match="that is no name of a model"):
            load_model("points:")

    def test_no_loader(self) -> None:
        """A name that no plugin loads says so, as it does without hook points."""
        with pytest.raises(UnknownScheme, match="'nobody:', as 'nobody:gpt'"):
            load_model("points:nobody:gpt")

    def test_capture(self) -> None:
        """Captures into a store take points and other layers alike."""
        store, model = MemoryStore(), load_model("points:tiny:")
        texts = ["In the beginning God created", "And it came to pass"]
        save_activations(
            model, ["blocks.*.hook_resid_post", "blocks.0.mlp"], texts, store, run_name="mine"
        )
        run = store.run("mine")
        assert run.layers == (
            *("blocks.0.mlp", "blocks.0.hook_resid_post"),
            *(f"blocks.{block}.hook_resid_post" for block in (1, 2, 3)),
        )
        tokens = run.tokens[run.documents.rows(0)]
        module: Any = model.context.model
        _, cache = module.run_with_cache(tokens[None].long())
        assert torch.allclose(
            run["blocks.3.hook_resid_post"][run.documents.rows(0)],
            cache["resid_post", 3][0],
            atol=1e-4,
        )


def test_import_is_light() -> None:
    """Importing the package, or its plugin module, imports no torch."""
    code = "import sys, tenterhook_hook_points.plugin; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_the_root_is_a_point_of_none() -> None:
    """A root with no points at all runs and caches nothing."""

    class Empty(HookedRootModule):
        def __init__(self) -> None:
            super().__init__()
            self.setup()

        def forward(self, x: Tensor) -> Tensor:
            return x

    _, cache = Empty().run_with_cache(torch.ones(1))
    assert cache == {}
    assert not isinstance(Empty(), HookPoint)
