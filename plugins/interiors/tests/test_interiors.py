"""Points inside attention, read and changed on a small Llama in each way of running it."""

import copy
import logging
import threading
from typing import Any

import pytest
import torch
from families import FAMILIES
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import Detector, HookType
from tenterhook.points import Point, Points
from tenterhook.testing.points import PointsContract
from tenterhook_interiors import find_points
from tenterhook_interiors.contract_examples import a_model

CALLS = 200


class TestContract(PointsContract):
    """They do what all points do."""

    def find_points(self, module: nn.Module) -> Points | None:
        """Find them."""
        return find_points(module)

    def model(self) -> nn.Module:
        """Make a small Llama."""
        made: nn.Module = a_model()
        return made

    def run(self, module: nn.Module) -> object:
        """Run one forward."""
        return module(torch.tensor([[2, 5, 9, 7]]))


@pytest.fixture
def model() -> Any:
    """Return a Llama in float64, attached."""
    return tenterhook.attach(FAMILIES["Llama"].make().double())


@pytest.fixture
def ids() -> Tensor:
    """Return two rows of six tokens."""
    return torch.randint(2, 90, (2, 6), generator=torch.Generator().manual_seed(1))


def test_names_mean_what_they_say(model: Any, ids: Tensor) -> None:
    """The pattern is the scores' softmax, heads sum values by it, and the block adds up."""
    names = ("scores", "pattern", "v", "z", "resid_pre", "resid_mid", "attn_out", "mlp_out")
    asked = [f"{name}.1" for name in names]
    with torch.no_grad(), model.capture(*asked, "resid_post.1") as captured:
        model(ids)
    scores, pattern, v, z, pre, mid, attention, mlp = map(captured.last, asked)

    assert torch.allclose(scores.softmax(-1), pattern, atol=1e-6)
    values = v.repeat_interleave(2, 2).transpose(1, 2)
    assert torch.allclose((pattern.double() @ values).transpose(1, 2), z, atol=1e-6)
    projection = model.module.model.layers[1].self_attn.o_proj
    assert torch.allclose(projection(z.flatten(2)), attention, atol=1e-12)
    assert torch.equal(pre + attention, mid)
    assert torch.allclose(mid + mlp, captured.last("resid_post.1"), atol=1e-12)
    assert v.shape == (2, 6, 2, 8)


def test_queries_before_rotary_positions(model: Any, ids: Tensor) -> None:
    """They are those of the projection, and rotate to those that enter the product."""
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    with torch.no_grad(), model.capture("q_pre.0", "k_pre.0", "q.0", "k.0") as captured:
        model(ids)
    turned = [captured.last(name).transpose(1, 2) for name in ("q_pre.0", "k_pre.0")]
    cos, sin = model.module.model.rotary_emb(turned[0], torch.arange(6)[None])
    for name, wanted in zip("qk", apply_rotary_pos_emb(*turned, cos, sin), strict=True):
        assert torch.allclose(captured.last(f"{name}.0"), wanted.transpose(1, 2), atol=1e-12)


def test_setting_a_pattern(model: Any, ids: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    """Heads sum what the new pattern says; the scope's calls are eager, which is logged."""
    even = torch.full((6, 6), 1 / 6, dtype=torch.float64)
    caplog.set_level(logging.INFO)
    with (
        torch.no_grad(),
        model.steer("pattern.0", lambda pattern: even.expand_as(pattern)),
        model.capture("v.0", "z.0") as captured,
    ):
        model(ids)

    mean = captured.last("v.0").mean(1, keepdim=True).repeat_interleave(2, 2)
    assert torch.allclose(captured.last("z.0"), mean.expand(-1, 6, -1, -1), atol=1e-12)
    assert "eager attention in place of sdpa" in caplog.text
    assert model.module.config._attn_implementation == "sdpa"


@pytest.mark.matrix(sample=3)
@pytest.mark.parametrize("family", ["GPT-J", "Falcon", "Falcon, alibi", "BLOOM", "MPT", "GPT-Neo"])
@pytest.mark.parametrize("name", ["k.1", "v.0", "pattern.1", "z.0", "q.0"])
def test_an_attention_of_its_own(family: str, name: str, ids: Tensor) -> None:
    """It is read and changed as those of transformers' tables are, and the cache has the change."""
    module = FAMILIES[family].make().double()
    model = tenterhook.attach(module)
    names = ("scores.1", "pattern.1", "v.1", "z.1")
    even = torch.full((6, 6), 1 / 6, dtype=torch.float64)
    with torch.no_grad(), model.capture(*names) as captured:
        plain = module(ids).logits
    with (
        torch.no_grad(),
        model.steer("pattern.1", lambda x: even.expand_as(x)),
        model.capture("v.1", "z.1") as steered,
    ):
        module(ids)
    scores, pattern, v, z = map(captured.last, names)
    assert torch.allclose(scores.softmax(-1), pattern.to(scores.dtype), atol=1e-6)
    v = v.repeat_interleave(4 // v.shape[2], 2)
    assert torch.allclose((pattern.double() @ v.transpose(1, 2)).transpose(1, 2), z, atol=1e-6)
    mean = steered.last("v.1").repeat_interleave(4 // steered.last("v.1").shape[2], 2).mean(1)
    assert torch.allclose(steered.last("z.1"), mean[:, None].expand(-1, 6, -1, -1), atol=1e-6)

    settings = {"max_new_tokens": 4, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    with model.steer(name, lambda x: x * 1.5):
        cached = module.generate(ids, **settings)
        assert torch.equal(cached, module.generate(ids, use_cache=False, **settings))
        with torch.no_grad():
            assert not torch.allclose(module(ids).logits, plain, atol=1e-9)
    with torch.no_grad():
        assert torch.equal(module(ids).logits, plain)
    tenterhook.assert_clean(model)


def test_layer_attention_is_a_pattern(model: Any, ids: Tensor) -> None:
    """`LAYER:attention` of an attention, or of what is around it, in every scope."""
    with torch.no_grad(), model.capture("*self_attn:attention") as captured:
        model(ids)
    assert list(captured) == ["pattern.0", "pattern.1"]
    with (
        torch.no_grad(),
        model.steer("model.layers.1.self_attn:attention", torch.zeros_like),
        model.capture("z.1") as steered,
    ):
        model(ids)
    assert not steered.last("z.1").any()
    bert = tenterhook.attach(FAMILIES["BERT"].make())
    at = bert.layers.index.resolve("bert.encoder.layer.0.attention:attention")
    assert at.name == "pattern.0"
    with pytest.raises(tenterhook.UnknownLayer, match=r"Closest: '.*self_attn:attention'"):
        model.capture("model.layers.1.mlp:attention")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("family", ["Llama", "BLOOM"])
def test_a_pattern_has_the_dtype_of_the_values(family: str, dtype: torch.dtype) -> None:
    """Though the softmax is taken in float32: it is what transformers returns, to the bit."""
    module = FAMILIES[family].make().to(dtype)
    module.set_attn_implementation("eager")
    model, ids = tenterhook.attach(module), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad(), model.capture("pattern.1", "v.1", "z.1") as captured:
        output = module(ids, output_attentions=True)
    pattern, values = captured.last("pattern.1"), captured.last("v.1").transpose(1, 2)
    assert torch.equal(pattern, output.attentions[1])
    summed = pattern @ values.repeat_interleave(pattern.shape[1] // values.shape[1], 1)
    torch.testing.assert_close(summed.transpose(1, 2), captured.last("z.1"))
    with torch.no_grad(), model.steer("pattern.1", lambda pattern: 0 * pattern):
        zeroed = module(ids).logits
    assert zeroed.dtype is dtype
    assert not torch.equal(zeroed, output.logits)
    with model.capture("pattern.1", detach=False) as captured:
        loss = module(ids).logits.sum()
    (gradient,) = torch.autograd.grad(loss, captured.last("pattern.1"))
    assert bool(gradient.any())


def test_kernels_that_show_no_pattern(ids: Tensor) -> None:
    """With flex, names are proven by the eager functions; patterns are refused with the way out."""
    module = FAMILIES["Llama"].make()
    module.set_attn_implementation("flex_attention")
    model = tenterhook.attach(module)
    for name in ("pattern.0", "scores.1", "model.layers.0.self_attn:attention"):
        with pytest.raises(tenterhook.UnknownLayer, match=r"\(flex_attention\).*load .*'eager'"):
            model.capture(name)
    points = model.layers.index.points()
    assert {"q.0", "k.0", "v.0", "z.0", "resid_mid.0"} <= points.layers.keys()
    assert module.config._attn_implementation == "flex_attention"


def test_a_kernel_that_came_later(model: Any, ids: Tensor) -> None:
    """Names were proven with another one: values are read, patterns are an error that says why."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    model.layers.index.points()
    kernel: Any = sdpa_attention_forward
    AttentionInterface.register("kernel_of_ours", kernel)
    mask: Any = AttentionMaskInterface._global_mapping["sdpa"]
    AttentionMaskInterface.register("kernel_of_ours", mask)
    model.module.set_attn_implementation("kernel_of_ours")
    with torch.no_grad(), model.capture("z.0") as captured:
        model(ids)
    assert captured.last("z.0").shape == (2, 6, 4, 8)
    refused = pytest.raises(RuntimeError, match=r"pattern.0 is not .*kernel \(kernel_of_ours\)")
    with refused, model.capture("pattern.0"):
        model(ids)
    assert model.module.config._attn_implementation == "kernel_of_ours"


def test_a_head_knocked_out(model: Any, ids: Tensor) -> None:
    """Zeros at its sum are zeros in its columns of the output projection."""

    def without(z: Tensor) -> Tensor:
        return z.index_fill(2, torch.tensor([1]), 0)

    with torch.no_grad():
        with model.steer("z.1", without):
            steered = model(ids).logits
        with model.replace("pattern.1", lambda pattern: pattern * 1.0):
            same = model(ids).logits
        model.module.model.layers[1].self_attn.o_proj.weight[:, 8:16] = 0
        assert torch.allclose(steered, model(ids).logits, atol=1e-12)
        assert not torch.allclose(steered, same)


@pytest.mark.matrix(sample=3)
@pytest.mark.parametrize("name", ["q_pre.0", "k.0", "v.0", "scores.0", "pattern.0", "z.0"])
def test_gradients_are_those_of_differences(model: Any, ids: Tensor, name: str) -> None:
    """Of what is steered at a point, and of the tensor that a capture leaves in the graph."""
    step = torch.zeros((), dtype=torch.float64, requires_grad=True)

    def loss(by: Any) -> Tensor:
        with model.steer(name, lambda x: x * (1 + by)):
            found: Tensor = model(ids).logits.square().mean()
            return found

    (gradient,) = torch.autograd.grad(loss(step), step)
    with torch.no_grad():
        difference = (loss(3e-3) - loss(-3e-3)) / 6e-3  # norms are float32
    assert torch.allclose(gradient, difference, rtol=1e-2, atol=1e-8)
    with model.capture(name, detach=False) as captured:
        total = model(ids).logits.square().mean()
    (inside,) = torch.autograd.grad(total, captured.last(name))
    dot = (inside * captured.last(name)).sum().double()
    assert torch.allclose(dot, gradient, rtol=1e-2, atol=1e-8)


def test_a_hook_of_gradients(model: Any, ids: Tensor) -> None:
    """It sees that of the pattern, though the model's own attention is a fused one."""

    class Keeps(Detector):
        def process_activations(self, module: Any, input: Any, output: Any) -> None:
            """Keep the gradient."""
            seen.append(output)

    seen: list[Tensor] = []
    with model.hooks(("pattern.0", Keeps(HookType.BACKWARD))):
        model(ids).logits.sum().backward()
    assert [each.shape for each in seen] == [(2, 4, 6, 6)]


@pytest.mark.matrix(sample=4)
@pytest.mark.parametrize("way", [{}, {"use_cache": False}, {"cache_implementation": "static"}])
@pytest.mark.parametrize("name", ["q.1", "k.0", "v.1", "z.1", "resid_mid.0", "mlp_act.1"])
def test_rows_of_a_generation(model: Any, ids: Tensor, name: str, way: dict[str, Any]) -> None:
    """With any cache and padding they are those of one forward over each returned row."""
    mask = torch.ones_like(ids)
    mask[0, :2] = 0
    settings = {"max_new_tokens": 4, "do_sample": False, **way}
    with model.capture(name, tokens=":") as captured:
        returned = model.module.generate(ids, attention_mask=mask, **settings)
    for row, found, real in zip(returned, captured.by_row(name), (2, 0), strict=True):
        with torch.no_grad(), model.capture(name) as alone:
            model(row[None, real:])
        wanted = alone.last(name)[0]
        assert torch.allclose(found, wanted[: len(found)], atol=1e-5)
        assert len(found) >= len(wanted) - 1


@pytest.mark.matrix(sample=2)
@pytest.mark.parametrize("name", ["k.1", "v.0", "pattern.1", "q_pre.0", "z.0"])
def test_a_steered_generation_needs_no_cache(model: Any, ids: Tensor, name: str) -> None:
    """What is made of keys and values stays in the cache, so the text is that without one."""
    settings = {"max_new_tokens": 5, "do_sample": False, "attention_mask": torch.ones_like(ids)}
    with model.steer(name, lambda x: x * 1.5):
        cached = model.module.generate(ids, **settings)
        plain = model.module.generate(ids, use_cache=False, **settings)
    assert torch.equal(cached, plain)


def test_beams(model: Any, ids: Tensor) -> None:
    """Rows follow the beams that are returned."""
    mask = torch.ones_like(ids)
    with model.capture("z.1", tokens=":") as captured:
        returned = model.module.generate(
            ids, attention_mask=mask, num_beams=3, max_new_tokens=4, do_sample=False
        )
    with torch.no_grad(), model.capture("z.1") as alone:
        model(returned)
    for found, wanted in zip(captured.by_row("z.1"), alone.last("z.1"), strict=True):
        assert torch.allclose(found, wanted[: len(found)], atol=1e-5)


def test_checkpointing(model: Any, ids: Tensor) -> None:
    """A block that runs twice is steered twice, and gradients are those without it."""
    grads = []
    for _ in range(2):
        model.module.train()
        model.module.zero_grad()
        with model.steer("z.0", lambda z: z * 2):
            model(ids, use_cache=False).logits.sum().backward()
        grads.append(model.module.model.layers[0].self_attn.q_proj.weight.grad.clone())
        model.module.activation_checkpointing_enable()
    assert torch.allclose(grads[0], grads[1], atol=1e-10)


def test_threads_with_points_of_their_own(model: Any, ids: Tensor) -> None:
    """Each sees its own change alone, and the model is as it was."""
    names = ("z.0", "pattern.1", "k.0", "scores.1")
    wrong: list[str] = []
    with torch.no_grad():
        plain = model(ids).logits
        wanted = {}
        for name in names:
            with model.steer(name, lambda x: x * 1.5):
                wanted[name] = model(ids).logits
    start = threading.Barrier(len(names) + 1)

    def steer(name: str) -> None:
        start.wait()
        with torch.no_grad():
            for _ in range(CALLS):
                with model.steer(name, lambda x: x * 1.5):
                    if not torch.allclose(model(ids).logits, wanted[name], atol=1e-9):
                        wrong.append(name)

    def look() -> None:
        start.wait()
        with torch.no_grad():
            wrong.extend("plain" for _ in range(CALLS) if not torch.equal(model(ids).logits, plain))

    threads = [threading.Thread(target=steer, args=(name,)) for name in names]
    threads.append(threading.Thread(target=look))
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert not wrong
    assert model.module.config._attn_implementation == "sdpa"
    tenterhook.assert_clean(model)


def test_a_failed_forward_leaves_nothing(model: Any, ids: Tensor) -> None:
    """The cache's update and the config are the model's own again."""
    from transformers import DynamicCache

    cache = DynamicCache(config=model.module.config)

    def fail(x: Tensor) -> Tensor:
        raise ArithmeticError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"), model.steer("k.0", fail):
        model(ids, past_key_values=cache)
    assert "update" not in vars(cache)
    assert not model.module.model.layers[0].self_attn._forward_pre_hooks
    assert model.module.config._attn_implementation == "sdpa"
    tenterhook.assert_clean(model)


def test_registered_hooks_of_two_points(model: Any, ids: Tensor) -> None:
    """The config is switched for both and back when the last has gone; `assert_clean` says so."""
    config = model.module.config
    first = model.layers.register_hook("z.0", tenterhook.hooks.LayerActivationDetector("z.0"))
    second = model.layers.register_hook("q.1", tenterhook.hooks.LayerActivationDetector("q.1"))
    assert config._attn_implementation == "tenterhook_sdpa"
    model(ids)
    assert model.layers.get_hook(second).get_captured().shape == (2, 6, 4, 8)
    with pytest.raises(tenterhook.NotClean, match=r"LayerActivationDetector.* at 'z\.0'"):
        tenterhook.assert_clean(model)
    model.layers.unregister_hook(first)
    assert config._attn_implementation == "tenterhook_sdpa"
    model.layers.unregister_hook(second)
    assert config._attn_implementation == "sdpa"
    tenterhook.assert_clean(model)


def test_a_copy_in_an_open_scope_has_no_points(model: Any, ids: Tensor) -> None:
    """It runs as the model does without."""
    plain = model(ids).logits
    with model.steer("z.0", lambda z: z * 2, missing="ignore"):
        twin = copy.deepcopy(model.module)
    assert torch.equal(twin(ids).logits, plain)


def test_finding_runs_no_hook_of_the_models(model: Any, ids: Tensor) -> None:
    """Names are proven on a twin: detectors and open captures see none of it."""
    seen: list[Any] = []
    model.module.model.layers[0].register_forward_hook(lambda *given: seen.append(given))
    detector = tenterhook.hooks.LayerActivationDetector("layer_0")
    model.layers.register_hook("layer_0", detector)
    with model.capture("layer_1", missing="ignore") as captured:
        model.layers.list_layers(points=True)
    assert detector.get_captured() is None
    assert not captured["layer_1"]
    assert not seen


def test_a_name_that_is_not_offered_says_why(model: Any) -> None:
    """Of this block, this model, and this kind of model."""
    with pytest.raises(tenterhook.UnknownLayer, match="The block has no experts"):
        model.capture("experts.0")
    with pytest.raises(tenterhook.UnknownLayer, match="The block has no experts"):
        model.capture("experts.0:ids")
    with pytest.raises(tenterhook.UnknownLayer, match=r"in this model\. Closest: 'z\.1'"):
        model.capture("z.7")
    parallel = tenterhook.attach(FAMILIES["GPT-NeoX"].make())
    with pytest.raises(tenterhook.UnknownLayer, match="both read the block's input"):
        parallel.capture("resid_mid.0")
    relative = tenterhook.attach(FAMILIES["DeBERTa-v2, relative"].make())
    with pytest.raises(tenterhook.UnknownLayer, match="They enter several products"):
        relative.capture("q.0")
    recurrent = tenterhook.attach(FAMILIES["Mamba"].make())
    with pytest.raises(tenterhook.UnknownLayer, match="No attention of this MambaBlock"):
        recurrent.capture("pattern.0")


def test_what_cannot_be_proven_takes_nothing_else(ids: Tensor) -> None:
    """Experts that fail when they are called one at a time, as the proof calls them."""
    module = FAMILIES["Mixtral"].make()
    kind: Any = type(module.model.layers[0].mlp.experts)

    class Picky(kind):  # type: ignore[misc]
        def forward(self, hidden: Tensor, ids: Tensor, weights: Tensor) -> Any:
            if ids.shape[-1] < 2:
                raise RuntimeError("two experts at least")
            return super().forward(hidden, ids, weights)

    module.model.layers[0].mlp.experts.__class__ = Picky
    model = tenterhook.attach(module)
    with torch.no_grad(), model.capture("pattern.0", "mlp_out.0", "router.1") as captured:
        module(ids)
    assert len(captured) == 3
    for name in ("experts.0", "router.0"):
        with pytest.raises(tenterhook.UnknownLayer, match=r"could not be proven: .*two experts"):
            model.capture(name)


@pytest.mark.parametrize("name", ["q.1", "z.0", "pattern.1", "resid_mid.0", "mlp_act.1"])
def test_another_shape_is_refused(model: Any, ids: Tensor, name: str) -> None:
    """It would be broadcast, or fail somewhere deep in the model."""
    for change in (lambda tensor: tensor[..., :2], lambda tensor: tensor.repeat_interleave(2, 0)):
        with (
            torch.no_grad(),
            pytest.raises(ValueError, match=rf"takes the place of {name} has shape \("),
            model.steer(name, change),
        ):
            model(ids)
    assert model(ids).logits.shape == (2, 6, 97)


def test_another_dtype_and_one_pattern_for_all(model: Any, ids: Tensor) -> None:
    """What a hook returns is cast to the model's dtype; a pattern may be one for all heads."""
    with torch.no_grad(), model.steer("z.1", lambda z: 2 * z.float()):
        doubled = model(ids).logits
    with torch.no_grad(), model.steer("z.1", lambda z: 2 * z):
        torch.testing.assert_close(doubled, model(ids).logits, rtol=1e-5, atol=1e-5)
    with (
        torch.no_grad(),
        model.steer("pattern.1", lambda pattern: torch.eye(6)),
        model.capture("z.1", "v.1") as captured,
    ):
        model(ids)
    assert torch.equal(captured.last("z.1"), captured.last("v.1").repeat_interleave(2, 2))


@pytest.fixture
def experts() -> Any:
    """Return a Mixtral, attached."""
    return tenterhook.attach(FAMILIES["Mixtral"].make())


def test_experts_that_are_chosen(experts: Any, ids: Tensor) -> None:
    """Ids are those of the router's largest logits; their weights sum to one."""
    names = ("router.1", "experts.1:ids", "experts.1:weights")
    with torch.no_grad(), experts.capture(*names, "experts.1") as captured:
        experts(ids)
    logits, chosen, weights = map(captured.last, names)

    assert logits.shape == (2, 6, 4)
    assert torch.equal(logits.topk(2).indices.sort(-1).values, chosen.sort(-1).values)
    assert torch.allclose(weights.sum(-1), torch.ones(2, 6))
    assert torch.equal(captured.last("experts.1"), chosen)


def test_a_router_is_steered(experts: Any, ids: Tensor) -> None:
    """Other logits choose other experts, and weights are steered as well."""

    def only(logits: Tensor) -> Tensor:
        return torch.full_like(logits, -9.0).index_fill(-1, torch.tensor([0, 3]), 5.0)

    with (
        torch.no_grad(),
        experts.capture("experts.0:ids") as captured,
        experts.steer("router.0", only),
    ):
        experts(ids)
    assert set(captured.last("experts.0:ids").flatten().tolist()) == {0, 3}
    with (
        torch.no_grad(),
        experts.capture("mlp_out.0") as captured,
        experts.steer("experts.0:weights", torch.zeros_like),
    ):
        experts(ids)
    assert not captured.last("mlp_out.0").any()


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks for what is deprecated
def test_points_are_found_through_wrappers(ids: Tensor) -> None:
    """Of a compiled model and of peft's they are the model's inside."""
    peft = pytest.importorskip("peft")
    inner = FAMILIES["Llama"].make()
    wrapped = peft.get_peft_model(inner, peft.LoraConfig(target_modules=["q_proj"]))
    model = tenterhook.attach(wrapped)
    with torch.no_grad(), model.capture("z.0", "attn_out.0") as captured:
        wrapped(input_ids=ids)
    assert captured.last("z.0").shape == (2, 6, 4, 8)
    found = find_points(torch.nn.Sequential(inner))
    assert found is None
    points = find_points(wrapped)
    assert points is not None
    assert isinstance(points.layers["q_pre.0"], Point)
