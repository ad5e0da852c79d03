"""What runs the model beside a search, in the middle of `generate`, is no text of it."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from test_tokens_ways import (
    BLOCKS,
    IDS,
    LEFT,
    PAD,
    PLAIN,
    captured_rows,
    check,
    ends_of,
    made,
)
from torch import Tensor

import tenterhook

LAYER = BLOCKS["llama"]
LONG = IDS[1:].repeat(1, 2)


class Looks(hf.LogitsProcessor):
    """Runs the model, and layers of it, on other text."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def look(self, ids: Tensor) -> None:
        """Run a prefix, all, one token, and layers by themselves."""
        with torch.no_grad():
            for some in (ids, ids[:, -2:], ids[:, -1:], ids[:1, :3]):
                if some.shape[1]:
                    self.model(some)
            embedded = self.model.get_input_embeddings()(ids[:, -1:])
            self.model.get_submodule(LAYER).mlp(embedded)

    def allowed(self, ids: Tensor) -> list[int]:
        """Look, and allow most."""
        self.look(ids[None])
        return list(range(3, 90))

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Look, and change nothing."""
        self.look(input_ids)
        return scores


class StopLooks(Looks, hf.StoppingCriteria):
    """Looks, and never stops."""

    def __call__(self, input_ids: Tensor, scores: Any, **kwargs: Any) -> Any:
        """Look, and say that no row has ended."""
        self.look(input_ids)
        return torch.zeros(len(input_ids), dtype=torch.bool)


class StreamLooks(Looks):
    """Looks at what it is handed."""

    def put(self, value: Tensor) -> None:
        """Look."""
        self.look(value.reshape(1, -1))

    def end(self) -> None:
        """Look once more."""
        self.look(IDS)


def _draft() -> Any:
    draft = made("llama")
    torch.manual_seed(5)
    for weight in draft.parameters():
        weight.data += 0.05 * torch.randn_like(weight)
    return draft


BESIDE: dict[str, Callable[[Any], dict[str, Any]]] = {
    "processor": lambda model: {"logits_processor": hf.LogitsProcessorList([Looks(model)])},
    "criterion": lambda model: {"stopping_criteria": hf.StoppingCriteriaList([StopLooks(model)])},
    "streamer": lambda model: {"streamer": StreamLooks(model)},
    "allowed tokens": lambda model: {
        "prefix_allowed_tokens_fn": lambda row, ids: Looks(model).allowed(ids)
    },
}
WAYS: dict[str, tuple[Tensor, Tensor, Callable[[], dict[str, Any]]]] = {
    "greedy": (IDS, LEFT, dict),
    "beams": (IDS, LEFT, lambda: {"num_beams": 3, "num_return_sequences": 2}),
    "no cache": (IDS, LEFT, lambda: {"use_cache": False}),
    "assisted": (LONG, torch.ones_like(LONG), lambda: {"assistant_model": _draft()}),
    "lookup": (LONG, torch.ones_like(LONG), lambda: {"prompt_lookup_num_tokens": 3}),
}
CASES = [
    (beside, way)
    for beside in BESIDE
    for way in WAYS
    if (beside, way) != ("streamer", "beams")  # which transformers has not
]


@pytest.mark.matrix(sample=6)
@pytest.mark.parametrize(("beside", "way"), CASES, ids=str)
def test_rows(beside: str, way: str) -> None:
    """A capture has each token of each returned row once, as the row alone has it."""
    model = made("llama")
    ids, mask, more = WAYS[way]
    if beside == "streamer":  # of one row
        ids, mask = ids[-1:], mask[-1:]
    ends = {ends_of(model)}
    settings = {**PLAIN, **more(), **BESIDE[beside](model), "eos_token_id": list(ends)}

    def call() -> Tensor:
        found: Tensor = model.generate(ids, attention_mask=mask, **settings)
        return found

    check(model, LAYER, captured_rows(model, LAYER, call), mask, ends)
    inner = f"{LAYER}.mlp"
    with tenterhook.attach(model).capture(LAYER, inner, tokens=":") as captured:
        call()
    wheres = [torch.cat(captured.where(layer)) for layer in (LAYER, inner)]
    assert torch.equal(*wheres)


def test_steering_does_not_reach_it() -> None:
    """A change by a selection is of the text alone."""
    model, seen = made("llama"), list[tuple[Tensor, Tensor]]()

    class Keeps(Looks):
        def look(self, ids: Tensor) -> None:
            """Keep what the model says of the text."""
            with torch.no_grad():
                seen.append((ids, self.model(ids).logits))

    settings = {**PLAIN, "logits_processor": hf.LogitsProcessorList([Keeps(model)])}
    with tenterhook.attach(model).steer(LAYER, lambda h: h * 0, tokens=":") as receipt:
        model.generate(IDS[1:], **settings)
    steps = PLAIN["max_new_tokens"] - 1
    assert (len(seen), receipt.tokens) == (steps + 1, IDS.shape[1] + steps)
    for ids, logits in seen:
        with torch.no_grad():
            torch.testing.assert_close(logits, model(ids).logits, rtol=0, atol=1e-9)


def own_generate(model: Any, ids: Tensor, mask: Tensor, ends: list[int]) -> Any:
    """Go on greedily, as a model with a `generate` of its own may have it."""
    settings: Any = hf.GenerationConfig
    config = settings(max_length=ids.shape[1] + 8, eos_token_id=ends, pad_token_id=PAD)
    model._prepare_special_tokens(config, True)
    ending = hf.generation.stopping_criteria.EosTokenCriteria(ends)
    return model._sample(
        ids,
        logits_processor=hf.LogitsProcessorList(),
        stopping_criteria=hf.StoppingCriteriaList([hf.MaxLengthCriteria(len(ids[0]) + 8), ending]),
        generation_config=config,
        attention_mask=mask,
        use_cache=True,
    )


def test_a_generate_of_ones_own() -> None:
    """A search is followed whoever begins it."""
    model, plain = made("llama"), made("llama")
    ends = [ends_of(plain)]
    found = captured_rows(model, LAYER, lambda: own_generate(model, IDS, LEFT, ends))
    wanted = plain.generate(IDS, attention_mask=LEFT, **{**PLAIN, "eos_token_id": ends})
    assert torch.equal(found[0], wanted)
    check(model, LAYER, found, LEFT, set(ends))
