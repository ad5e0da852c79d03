"""An SAE at a layer of a real model: what is seen, and what is changed."""

import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
from tenterhook.hooks import HookError, HookType
from tenterhook_sae import Manipulation, Sae, SparseLatents, TopKSae

N_LATENTS = 256
LAYER = "transformer.h.1"
TEXTS = [
    "In the beginning God created the heaven and the earth.",
    "And it came to pass,",
    "The LORD is my shepherd; I shall not want.",
]


def run(lm: Any, texts: list[str] = TEXTS) -> Tensor:
    """The logits of the texts."""
    outputs, _ = lm.inference.execute_inference(texts)
    logits: Tensor = outputs.logits
    return logits


def activation(lm: Any, texts: list[str] = TEXTS) -> Tensor:
    """What the layer returns to what comes after it."""
    with lm.capture(LAYER) as captured:
        lm.inference.execute_inference(texts)
    found: Tensor = captured.last(LAYER)
    return found


def test_without_a_manipulation_the_output_is_bit_identical(
    lm: Any, make: Callable[..., Sae]
) -> None:
    """However badly it reconstructs: its error is kept."""
    sae = make()
    plain = run(lm)
    lm.attach_sae(sae, layer_signature="layer_1")

    assert torch.equal(run(lm), plain)
    assert sae.latents is not None


def test_latents_of_the_last_call(lm: Any, make: Callable[..., Sae]) -> None:
    """Those of the layer's activation, detached, with the axes of the batch."""
    sae = make()
    x = activation(lm)
    lm.attach_sae(sae, "layer_1")
    run(lm)

    assert sae.latents is not None
    assert sae.latents.shape == (*x.shape[:2], N_LATENTS)
    assert not sae.latents.requires_grad
    torch.testing.assert_close(sae.latents, sae.encode(x))
    assert isinstance(sae.sparse_latents, SparseLatents)
    assert sae.metadata["latents_shape"] == (*x.shape[:2], N_LATENTS)
    sae.clear_latents()
    assert sae.latents is None


def test_detached_it_leaves_nothing(lm: Any, sae: Sae) -> None:
    """Neither hooks of ours nor torch's, tracking and selections included."""
    plain = run(lm)
    lm.attach_sae(sae, "layer_1")
    sae.concepts.enable_text_tracking()
    sae.concepts.manipulate_concept(3, scale=5, tokens="last")
    assert lm.detach_sae("layer_1") == [sae]

    tenterhook.assert_clean(lm.module)
    assert not lm.module._forward_pre_hooks
    assert not lm.module._forward_hooks
    assert torch.equal(run(lm), plain)


def test_observing_changes_nothing(lm: Any, make: Callable[..., Sae]) -> None:
    """Whatever is manipulated."""
    sae = make(mode="observe")
    plain = run(lm)
    lm.attach_sae(sae, "layer_1")
    sae.concepts.manipulate_concept(3, add=5)

    assert torch.equal(run(lm), plain)


def test_reconstructing_puts_the_reconstruction_in(lm: Any, make: Callable[..., Sae]) -> None:
    """In place of the activation, for every token."""
    sae = make(mode="reconstruct")
    x = activation(lm)
    lm.attach_sae(sae, "layer_1")

    torch.testing.assert_close(activation(lm), sae(x))


def strongest(sae: Sae, x: Tensor) -> int:
    """The latent that is active at the most tokens."""
    return int((sae.encode(x) > 0).sum((0, 1)).argmax())


@pytest.mark.parametrize("mode", ["edit", "reconstruct"])
@pytest.mark.parametrize(
    ("asked", "change"),
    [
        ({"scale": 1.5}, lambda z: z * 1.5),
        ({"scale": 0}, lambda z: z * 0),
        ({"add": 2.0}, lambda z: z + 2),
        ({"maximum": 0.5}, lambda z: z.clamp(max=0.5)),
        ({"minimum": 1.0, "maximum": 1.0}, torch.ones_like),
        ({"scale": 3, "add": -1, "minimum": 0}, lambda z: (3 * z - 1).clamp(min=0)),
    ],
    ids=["scale", "remove", "add", "clamp", "set", "all"],
)
def test_a_manipulation(
    lm: Any, make: Callable[..., Sae], mode: Any, asked: Any, change: Callable[[Tensor], Tensor]
) -> None:
    """One latent changes as asked, and the activation by that latent's direction alone."""
    sae = make(mode=mode)
    x = activation(lm)
    latent = strongest(sae, x)
    lm.attach_sae(sae, "layer_1")
    sae.concepts.manipulate_concept(neuron_idx=latent, **asked)

    latents = sae.encode(x)
    changed = latents.clone()
    changed[..., latent] = change(latents[..., latent])
    if mode == "reconstruct":
        expected = sae.decode(changed)
    else:
        difference = (changed - latents)[..., latent, None]
        expected = x + difference * sae.W_dec[latent]
    torch.testing.assert_close(activation(lm), expected.detach(), atol=1e-4, rtol=1e-4)
    assert sae.latents is not None
    torch.testing.assert_close(sae.latents, latents)  # of the unmodified activation


def test_the_other_latents_keep_their_bits(lm: Any, make: Callable[..., Sae]) -> None:
    """Of latents, one column is another; reconstructing is of these."""
    sae = make(mode="reconstruct")
    x = activation(lm)
    latents = sae.encode(x).detach()
    latent = strongest(sae, x)
    sae.concepts.manipulate_concept(latent, scale=1.5)
    sae.concepts.manipulate_concept(latent, add=1.0, rows=0)

    changed = sae.concepts.apply(latents)

    others = [at for at in range(N_LATENTS) if at != latent]
    assert torch.equal(changed[..., others], latents[..., others])
    expected = latents[..., latent] * 1.5
    expected[0] += 1
    assert torch.equal(changed[..., latent], expected)
    assert torch.equal(sae.encode(x).detach(), latents)
    lm.attach_sae(sae, "layer_1")
    torch.testing.assert_close(activation(lm), sae.decode(changed), atol=1e-4, rtol=1e-4)


def test_what_a_manipulation_does_not_reach_keeps_its_bits(lm: Any, sae: Sae) -> None:
    """Tokens where the latent is not active, in the default mode."""
    x = activation(lm)
    latent = int((sae.encode(x) > 0).sum((0, 1)).clamp(max=x.shape[0] * x.shape[1] - 5).argmax())
    silent = sae.encode(x)[..., latent] == 0
    lm.attach_sae(sae, "layer_1")
    sae.concepts.manipulate_concept(latent, scale=4)

    changed = activation(lm)

    assert silent.any()
    assert torch.equal(changed[silent], x[silent])
    assert not torch.equal(changed[~silent], x[~silent])


def test_reset_takes_manipulations_back(lm: Any, sae: Sae) -> None:
    """To the bit."""
    plain = run(lm)
    lm.attach_sae(sae, "layer_1")
    sae.concepts.manipulate_concept(3, add=5)
    assert not torch.equal(run(lm), plain)
    sae.concepts.reset_manipulations()

    assert torch.equal(run(lm), plain)


def test_a_manipulation_of_rows_and_tokens(lm: Any, sae: Sae) -> None:
    """Only the row and token that are selected, padding on whichever side."""
    x = activation(lm)
    real = lm.tokenize(TEXTS)["attention_mask"].bool()
    last = [int(row.nonzero().max()) for row in real]
    lm.attach_sae(sae, "layer_1")
    sae.concepts.manipulate_concept(3, add=5, tokens="last", rows=[0, 1])

    moved = (activation(lm) != x).any(-1)

    expected = torch.zeros_like(moved)
    expected[0, last[0]] = expected[1, last[1]] = True
    assert torch.equal(moved, expected)


def test_several_selections_of_one_latent(lm: Any, sae: Sae) -> None:
    """They apply one after the other; the same selection again replaces."""
    x = activation(lm)
    lm.attach_sae(sae, "layer_1")
    sae.concepts.manipulate_concept(3, add=5, rows=0)
    sae.concepts.manipulate_concept(3, add=1, rows=0)
    sae.concepts.manipulate_concept(3, add=2, rows=1)

    shift = activation(lm) - x

    steps = torch.tensor([1.0, 2.0, 0.0])[:, None, None] * sae.W_dec[3].detach()
    torch.testing.assert_close(shift, steps.expand_as(shift), atol=1e-4, rtol=1e-4)


def test_manipulations_of_generated_tokens(lm: Any, sae: Sae) -> None:
    """At each step of a generation, and not on the prompt."""
    seen: list[bool] = []
    lm.attach_sae(sae, "layer_1")
    plain = lm.generate("And God said,", max_new_tokens=6, do_sample=False)
    sae.concepts.manipulate_concept(3, add=60, phase="generated")
    with lm.capture(LAYER) as captured:
        changed = lm.generate("And God said,", max_new_tokens=6, do_sample=False)
    seen = [bool((each @ sae.W_dec[3]).max() > 40) for each in captured[LAYER]]

    assert not seen[0]
    assert all(seen[1:])
    first = plain.prompt_lengths[0] + 1  # the first new token follows from the prompt
    assert changed.token_ids[0][:first] == plain.token_ids[0][:first]
    assert changed.texts != plain.texts


def test_manipulated_is_a_scope(lm: Any, sae: Sae) -> None:
    """It nests, its latents take the place of what stood, and it is gone after an exception."""
    x = activation(lm)
    lm.attach_sae(sae, "layer_1")

    def shift() -> float:
        direction = sae.W_dec[3].detach()
        return float((activation(lm) - x)[0, 0] @ direction)

    sae.concepts.manipulate_concept(3, add=1)
    with sae.concepts.manipulated({3: Manipulation(add=2)}):
        assert shift() == pytest.approx(2, abs=1e-3)
        with sae.concepts.manipulated({3: Manipulation(add=4), 5: 1.0}):
            assert shift() == pytest.approx(4, abs=1e-3)
        with pytest.raises(KeyError), sae.concepts.manipulated({3: 0.0}):
            raise KeyError
        assert shift() == pytest.approx(2, abs=1e-3)
    assert shift() == pytest.approx(1, abs=1e-3)


def test_manipulated_belongs_to_its_thread(lm: Any, sae: Sae) -> None:
    """Another thread, at the same time, sees the model unchanged."""
    plain = run(lm)
    lm.attach_sae(sae, "layer_1")
    found: list[bool] = []

    def elsewhere() -> None:
        found.append(torch.equal(run(lm), plain))

    with sae.concepts.manipulated({3: Manipulation(add=9)}):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
        assert not torch.equal(run(lm), plain)
    assert found == [True]


def test_threads_share_one_sae(lm: Any, sae: Sae) -> None:
    """Each forward is changed by its own latents, whoever else runs."""
    lm.attach_sae(sae, "layer_1")
    texts = [[text] for text in TEXTS]
    sae.concepts.manipulate_concept(3, scale=3, add=1)
    expected = [run(lm, each) for each in texts]
    wrong: list[int] = []

    def work(at: int) -> None:
        for _ in range(10):
            if not torch.equal(run(lm, texts[at]), expected[at]):
                wrong.append(at)

    threads = [threading.Thread(target=work, args=(at,)) for at in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_with_controllers_off_it_only_observes(lm: Any, sae: Sae) -> None:
    """Latents are seen, nothing is changed."""
    plain = run(lm)
    lm.attach_sae(sae, "layer_1")
    sae.concepts.manipulate_concept(3, add=9)

    outputs, _ = lm.inference.execute_inference(TEXTS, with_controllers=False)

    assert torch.equal(outputs.logits, plain)
    assert sae.latents is not None


def test_in_a_scope(lm: Any, sae: Sae) -> None:
    """`model.hooks` takes it as any hook; selections work there, too."""
    x = activation(lm)
    sae.concepts.manipulate_concept(3, add=5, tokens=0)
    with lm.hooks((LAYER, sae)), lm.capture(LAYER) as captured:
        lm.inference.execute_inference(TEXTS)

    moved = (captured.last(LAYER) != x).any(-1)
    assert moved.sum() == len(TEXTS)
    assert not lm.module._forward_pre_hooks


def test_gradients_flow_through_a_manipulation(lm: Any, sae: Sae) -> None:
    """To the activation, as through the formula; and an attached SAE alone changes none."""
    module = nn.Linear(6, 128)
    model = tenterhook.attach(module)
    x = torch.randn(3, 6)

    def gradient() -> Tensor:
        (found,) = torch.autograd.grad(model(x).square().sum(), [module.weight])
        return found

    plain = gradient()
    model.layers.register_hook("output", sae)
    assert torch.equal(gradient(), plain)
    sae.concepts.manipulate_concept(3, scale=2, add=1)
    changed = gradient()

    out = nn.functional.linear(x, module.weight, module.bias)
    latent = sae.encode(out)[:, 3]
    manual = out + ((latent * 2 + 1) - latent)[:, None] * sae.W_dec[3]
    (expected,) = torch.autograd.grad(manual.square().sum(), [module.weight])
    torch.testing.assert_close(changed, expected, atol=1e-3, rtol=1e-4)
    assert sae.latents is not None
    assert not sae.latents.requires_grad
    model.layers.clear()


def test_before_a_layer(lm: Any, sae: Sae) -> None:
    """As a pre-forward hook it sees and changes what the layer is given."""
    plain = run(lm)
    lm.layers.register_hook("layer_2", sae, hook_type="pre_forward")
    assert sae.hook_type is HookType.PRE_FORWARD
    assert torch.equal(run(lm), plain)
    sae.concepts.manipulate_concept(3, add=5)

    assert not torch.equal(run(lm), plain)


def test_as_a_plain_torch_hook(sae: Sae) -> None:
    """On any module, with nothing of ours around it."""
    module = nn.Linear(6, 128)
    x = torch.randn(2, 5, 6)
    plain = module(x)
    handle = module.register_forward_hook(sae.get_torch_hook())
    assert torch.equal(module(x), plain)
    sae.concepts.manipulate_concept(3, add=5, tokens=[0])

    moved = (module(x) != plain).any(-1)

    assert moved[:, 0].all()
    assert not moved[:, 1:].any()
    handle.remove()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_another_dtype_than_the_models(sae: Sae, dtype: torch.dtype) -> None:
    """The activation keeps its dtype; latents have the SAE's."""
    model = tenterhook.attach(nn.Linear(6, 128).to(dtype))
    model.layers.register_hook("output", sae)
    sae.concepts.manipulate_concept(3, add=5)

    out = model(torch.randn(2, 3, 6, dtype=dtype))

    assert out.dtype is dtype
    assert sae.latents is not None
    assert sae.latents.dtype is torch.float32
    model.layers.clear()


def test_under_autocast_it_computes_in_its_own_dtype(sae: Sae) -> None:
    """Latents do not depend on whether the model is run in autocast."""
    model = tenterhook.attach(nn.Identity())
    model.layers.register_hook("output", sae)
    x = torch.randn(4, 128)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(x)

    assert sae.latents is not None
    assert torch.equal(sae.latents, sae.encode(x))
    model.layers.clear()


def test_latents_of_inference_mode_are_fit_for_autograd(sae: Sae) -> None:
    """As any tensor of the user's."""
    model = tenterhook.attach(nn.Identity())
    model.layers.register_hook("output", sae)
    with torch.inference_mode():
        model(torch.randn(4, 128))

    latents = sae.latents
    assert latents is not None
    probe = torch.ones(N_LATENTS, requires_grad=True)
    (gradient,) = torch.autograd.grad((latents @ probe).sum(), [probe])
    assert gradient.shape == (N_LATENTS,)
    model.layers.clear()


@pytest.mark.parametrize("manipulated", [False, True])
@torch.no_grad()
def test_compiled(sae: Sae, manipulated: bool) -> None:
    """A compiled model runs it, attached before or after."""
    torch.compiler.reset()
    module = nn.Sequential(nn.Linear(6, 128), nn.Linear(128, 3))
    model = tenterhook.attach(module)
    x = torch.randn(4, 6)
    compiled = torch.compile(module, backend="eager")
    plain = compiled(x)
    model.layers.register_hook("0", sae)
    if manipulated:
        sae.concepts.manipulate_concept(3, add=5)

    found = compiled(x)

    torch.testing.assert_close(found, module(x))
    assert torch.equal(found, plain) is not manipulated
    assert sae.latents is not None
    model.layers.clear()
    torch.compiler.reset()


def test_a_layer_of_another_width_is_named(lm: Any, make: Callable[..., Sae]) -> None:
    """Both numbers, the layer, and the way out; the model is as it was."""
    plain = run(lm)
    sae = make(N_LATENTS, 64)
    lm.attach_sae(sae, "layer_1")

    message = r"takes 64 inputs, and layer 'transformer.h.1' has 128 features.*n_inputs=128"
    with pytest.raises(HookError, match=message):
        run(lm)
    lm.detach_sae(sae)
    assert torch.equal(run(lm), plain)


@pytest.mark.parametrize("latent", [N_LATENTS, -1, 10**9])
def test_a_latent_that_is_not_there_names_the_range(sae: Sae, latent: int) -> None:
    """For manipulations, scopes, names and texts."""
    sae.concepts.enable_text_tracking()
    message = re.escape(f"There is no latent {latent}: the latents are 0 to {N_LATENTS - 1}.")
    for ask in (
        lambda: sae.concepts.manipulate_concept(latent, scale=2),
        lambda: sae.concepts.manipulated({latent: 2.0}).__enter__(),
        lambda: sae.concepts.name(latent, "a"),
        lambda: sae.concepts.get_top_texts(latent),
    ):
        with pytest.raises(IndexError, match=message):
            ask()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale": float("nan")}, "scale=nan must be a finite number"),
        ({"scale": "2"}, "scale='2' must be a finite number"),
        ({"add": float("inf")}, "add=inf must be a finite number"),
        ({"minimum": 2, "maximum": 1}, "minimum=2 must be at most maximum=1"),
        (
            {"rows": 0, "selection": tenterhook.Selection(rows=1)},
            "Give either selection=.* or its parts, not both",
        ),
        (
            {"selection": tenterhook.Selection(features=[1])},
            "a manipulation changes one latent. Leave features out",
        ),
    ],
)
def test_manipulations_that_cannot_be(sae: Sae, settings: Any, message: str) -> None:
    """The value, and nothing is changed."""
    with pytest.raises(ValueError, match=message):
        sae.concepts.manipulate_concept(3, **settings)
    assert not sae.concepts.manipulations


def test_names(sae: Sae) -> None:
    """A latent has one name, a name one latent; both are asked for alike."""
    sae.concepts.name(7, "genealogy")
    sae.concepts.manipulate_concept("genealogy", scale=0)
    assert sae.concepts.number("genealogy") == 7
    assert list(sae.concepts.manipulations) == [7]
    with pytest.raises(ValueError, match="it is the name of latent 7"):
        sae.concepts.name(8, "genealogy")
    with pytest.raises(IndexError, match="Closest name: 'genealogy'"):
        sae.concepts.number("genealogies")
    with pytest.raises(TypeError, match=r"A latent is an int or a name, not 1\.5"):
        sae.concepts.number(1.5)  # type: ignore[arg-type]
    sae.concepts.name("genealogy", None)
    with pytest.raises(IndexError, match="None of them has a name"):
        sae.concepts.number("genealogy")


def test_of_two_kinds_on_one_layer(lm: Any) -> None:
    """A hook that is both stands beside a detector or a controller."""
    from tenterhook.hooks import LayerActivationDetector

    lm.layers.register_hook(LAYER, LayerActivationDetector(LAYER))
    sae = TopKSae(32, 128, 4)
    lm.attach_sae(sae, LAYER)

    assert sae in lm.layers.get_detectors()
    assert sae in lm.layers.get_controllers()
