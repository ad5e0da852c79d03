"""What is around `generate`: tasks of asyncio, streamers, pipelines, calls one after the other."""

import asyncio
import io
import threading
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor

import tenterhook
from tenterhook.loading import load_model
from tenterhook.selections import generating
from tenterhook_transformers import LanguageModel

LAYER = "transformer.h.1"
PROMPTS = ["And the LORD spake unto Moses, saying", "In the beginning", "And God said, Let"]
SETTINGS: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None}


@pytest.fixture(scope="module")
def lm() -> Any:
    """A small model, in float64."""
    model: Any = load_model("tiny:")
    model.module.double()
    return model


def alone(lm: LanguageModel, ids: list[int]) -> Tensor:
    """Return what the layer gives for one text, whole, without a cache, by a bare hook."""
    seen: list[Tensor] = []

    def keep(module: Any, args: Any, output: Any) -> None:
        seen.append((output[0] if isinstance(output, tuple) else output).detach().clone())

    handle = lm.module.get_submodule(LAYER).register_forward_hook(keep)
    with torch.no_grad():
        lm.module(torch.tensor([ids]), use_cache=False)
    handle.remove()
    return seen[0][0]


def check(lm: LanguageModel, rows: list[Tensor], texts: list[list[int]], first: int = 0) -> None:
    """Compare rows with the texts, of which they lack no more than the last token."""
    assert len(rows) == len(texts)
    for row, ids in zip(rows, texts, strict=True):
        wanted = alone(lm, ids)[first:]
        assert len(wanted) - len(row) in (0, 1)
        torch.testing.assert_close(row, wanted[: len(row)], rtol=0, atol=1e-9)


def test_tasks_in_threads(lm: LanguageModel) -> None:
    """Tasks that generate in an executor, each with a selection of its own."""
    phases = ["prompt", "generated", None]

    async def one(number: int) -> tuple[list[Tensor], list[int], int]:
        text, phase = PROMPTS[number % 3] + " x" * number, phases[number % 3]
        loop = asyncio.get_running_loop()
        with lm.capture(LAYER, tokens=":", phase=phase) as captured:  # type: ignore[arg-type]
            run: Callable[[], Any] = tenterhook.carry(lambda: lm.generate([text], **SETTINGS))
            made = await loop.run_in_executor(None, run)
            await asyncio.sleep(0)
        (ids,), (given,) = made.token_ids, made.prompt_lengths
        first = given if phase == "generated" else 0
        return captured.by_row(LAYER), ids[:given] if phase == "prompt" else ids, first

    async def main() -> list[Any]:
        return await asyncio.gather(*map(one, range(6)))

    for rows, ids, first in asyncio.run(main()):
        check(lm, rows, [ids], first)
    tenterhook.assert_clean(lm.module)


def test_tasks_in_turn(lm: LanguageModel) -> None:
    """Tasks whose loops take turns at each step, with caches of their own."""

    async def one(number: int) -> None:
        ids = lm.tokenizer(PROMPTS[number] * (number + 1), return_tensors="pt")["input_ids"]
        given, step, past = ids.shape[1], ids, None
        with lm.capture(LAYER, phase="generated") as captured, generating([given]):
            for _ in range(4):
                with torch.no_grad():
                    output = lm.module(step, past_key_values=past, use_cache=True)
                step, past = output.logits[:, -1:].argmax(-1), output.past_key_values
                ids = torch.cat([ids, step], 1)
                await asyncio.sleep(0)
        check(lm, captured.by_row(LAYER), ids.tolist(), given)

    async def main() -> None:
        await asyncio.gather(*map(one, range(3)))

    asyncio.run(main())


def test_a_streamer(lm: LanguageModel) -> None:
    """One that writes as it goes."""
    with redirect_stdout(io.StringIO()) as out, lm.capture(LAYER, tokens=":") as captured:
        made = lm.generate(PROMPTS[0], streamer=hf.TextStreamer(lm.tokenizer), **SETTINGS)
    assert made.text.split()[-1] in out.getvalue()
    check(lm, captured.by_row(LAYER), made.token_ids)


@pytest.mark.parametrize("bare", [True, False], ids=["generate", "LanguageModel"])
@pytest.mark.parametrize("carried", [True, False], ids=["carried", "inside"])
def test_a_streamer_in_a_thread(bare: bool, carried: bool, lm: LanguageModel) -> None:
    """One that is read while another thread generates, in whose scope it may be."""
    streamer = hf.TextIteratorStreamer(lm.tokenizer)
    given = lm.tokenizer(PROMPTS[:1], return_tensors="pt")
    made: list[list[int]] = []

    def run() -> None:
        if bare:
            found: Any = lm.module
            found = found.generate(**given, streamer=streamer, pad_token_id=0, **SETTINGS)
            made.extend(found.tolist())
        else:
            made.extend(lm.generate(PROMPTS[:1], streamer=streamer, **SETTINGS).token_ids)

    def inside() -> None:
        with lm.capture(LAYER, tokens=":") as captured:
            run()
        rows.extend(captured.by_row(LAYER))

    rows: list[Tensor] = []
    with lm.capture(LAYER, tokens=":", missing="ignore") as captured:
        thread = threading.Thread(target=tenterhook.carry(run) if carried else inside)
        thread.start()
        text = "".join(streamer)
        thread.join()
    assert text
    check(lm, captured.by_row(LAYER) if carried else rows, made)


@pytest.mark.filterwarnings("ignore")  # what transformers says of pipelines
@pytest.mark.parametrize("batch", [1, 2])
def test_a_pipeline(batch: int, lm: LanguageModel) -> None:
    """Prompts one after the other, and as a batch, padded on the left."""
    tokenizer = lm.tokenizer
    before, tokenizer.padding_side = tokenizer.padding_side, "left"
    try:
        made: Any = hf.pipeline
        pipe = made("text-generation", model=lm.module, tokenizer=tokenizer)
        with (
            lm.capture(LAYER, tokens=":") as captured,
            lm.capture(LAYER, phase="prompt") as prompt,
        ):
            settings = {**SETTINGS, "return_tensors": True, "batch_size": batch}
            found: Any = pipe(PROMPTS[:2], **settings)
    finally:
        tokenizer.padding_side = before
    given = [tokenizer(text)["input_ids"] for text in PROMPTS[:2]]
    texts = []
    for each, ids in zip(found, given, strict=True):
        whole = each[0]["generated_token_ids"]
        texts.append([*ids, *whole[len(whole) - SETTINGS["max_new_tokens"] :]])
    check(lm, captured.by_row(LAYER), texts)
    assert [len(row) for row in prompt.by_row(LAYER)] == list(map(len, given))


def test_a_pipeline_of_a_language_model(lm: LanguageModel) -> None:
    """A pipeline takes the module, and who gives it the language model is told so."""
    made: Any = hf.pipeline
    said = r"has no 'device'; its GPT2LMHeadModel has.*model=lm\.module, tokenizer=lm\.tokenizer"
    with pytest.raises(AttributeError, match=said):
        made("text-generation", model=lm, tokenizer=lm.tokenizer)
    assert not hasattr(lm, "config")  # nor does anything else take it for a module
    with pytest.raises(AttributeError, match=r"^'LanguageModel' object has no attribute 'colour'$"):
        lm.colour  # type: ignore[attr-defined]  # noqa: B018


@pytest.mark.parametrize("way", [{}, {"num_beams": 2}, {"use_cache": False}], ids=str)
def test_one_after_the_other(way: dict[str, Any], lm: LanguageModel) -> None:
    """Rows of several calls are not made into one: they come one after the other."""
    with lm.capture(LAYER, tokens=":") as captured:
        texts = [
            ids
            for prompts in (PROMPTS, PROMPTS[1:2])
            for ids in lm.generate(prompts, **SETTINGS, **way).token_ids
        ]
    check(lm, captured.by_row(LAYER), texts)


def test_several_turns(lm: LanguageModel) -> None:
    """The next turn of a reused cache goes on with the row."""
    module: Any = lm.module
    ids = lm.tokenizer(PROMPTS[:1], return_tensors="pt")["input_ids"]
    settings = {**SETTINGS, "pad_token_id": 0, "return_dict_in_generate": True}
    with lm.capture(LAYER, tokens=":") as captured:
        found = module.generate(ids, attention_mask=torch.ones_like(ids), **settings)
        ids = torch.cat([found.sequences, ids[:, :4]], 1)
        found = module.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=found.past_key_values,
            **settings,
        )
    check(lm, captured.by_row(LAYER), found.sequences.tolist())
