"""Messages that are answered: what `chat` returns, and which tokens selections of roles mean.

The oracle runs the final sequences once more, each row alone, without padding and cache, through a
plain PyTorch hook.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook.hooks import HookError
from tenterhook_selections import Roles, Selection, generating
from tenterhook_transformers import LanguageModel

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
THINKS = TEMPLATE + "{# </think> #}"
"""A template that knows of thinking."""

LAYER, EARLY = "model.layers.1", "model.layers.0"
SHORT: list[dict[str, Any]] = [{"role": "user", "content": "Short question?"}]
LONG: list[dict[str, Any]] = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "The quick brown fox?"},
    {"role": "assistant", "content": "It jumps."},
    {"role": "user", "content": "Over what?"},
]
CHATS = [SHORT, LONG]
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}


@pytest.fixture
def model(make_model: Callable[..., Any]) -> Any:
    """A small Llama, in float64."""
    return make_model("llama", vocab_size=340, max_position_embeddings=256).double()


@pytest.fixture
def lm(model: Any, chat_tokenizer: Callable[..., Any]) -> LanguageModel:
    """With a tokenizer and a plain template."""
    return LanguageModel(model, chat_tokenizer(TEMPLATE, marks=False))


def alone(lm: LanguageModel, ids: list[int]) -> Tensor:
    """Run one row by itself and return what the layer gives."""
    kept: list[Tensor] = []

    def hook(module: Any, args: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).detach()[0])

    handle = lm.module.get_submodule(LAYER).register_forward_hook(hook)
    with torch.no_grad():
        lm.module(input_ids=torch.tensor([ids]), use_cache=False)
    handle.remove()
    return kept[0]


def positions(lm: LanguageModel, ids: list[int], contents: list[str]) -> list[int]:
    """Return the positions of the tokens that contents stand on, looked for in the decoded text."""
    found: list[int] = []
    for content in contents:
        for first in range(len(ids)):
            for last in range(first + 1, len(ids) + 1):
                if lm.tokenizer.decode(ids[first:last]) == content:
                    found += range(first, last)
    return found


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunks": {"prefill_chunk_size": 8},
    "samples": {"do_sample": True, "num_return_sequences": 2},
    "beams": {"num_beams": 3},
    "guidance": {"guidance_scale": 1.5},
}


@pytest.mark.parametrize("way", WAYS)
def test_roles_are_the_same_tokens_in_every_way_of_generating(lm: LanguageModel, way: str) -> None:
    """Of each row that was returned, whatever batch and search it was in."""
    torch.manual_seed(0)
    scope = {role: lm.capture(LAYER, tokens=role) for role in ("user", "assistant", "system")}
    with scope["user"] as user, scope["assistant"] as assistant, scope["system"] as system:
        made = lm.chat(CHATS, **{**GREEDY, **WAYS[way]})

    each = len(made) // len(CHATS)
    for row, ids in enumerate(made.token_ids):
        messages, length = CHATS[row // each], made.prompt_lengths[row]
        rows = alone(lm, ids)
        by_role = {
            role: [str(m["content"]) for m in messages if m["role"] == role]
            for role in ("user", "assistant")
        }
        expected = positions(lm, ids, by_role["user"])
        assert torch.allclose(user.by_row(LAYER)[row], rows[expected], atol=1e-9)
        given = positions(lm, ids[:length], by_role["assistant"])
        expected = [*given, *range(length, len(ids))]
        assert torch.allclose(assistant.by_row(LAYER)[row], rows[expected], atol=1e-9)
    assert len(system.by_row(LAYER)) == each  # of the rows that have a system message


def test_chat_returns_what_generate_returns(lm: LanguageModel) -> None:
    """The template's text, with special tokens once, and the answers as continuations."""
    made = lm.chat(CHATS, **GREEDY)
    for chat, ids, length in zip(CHATS, made.token_ids, made.prompt_lengths, strict=True):
        wanted = lm.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, return_dict=False
        )
        assert ids[:length] == wanted
    one = lm.chat(SHORT, **GREEDY)
    assert one.token_ids[0] == made.token_ids[0]
    assert one.continuations == [made.continuations[0]]


def test_roles_phases_and_positions_combine(lm: LanguageModel) -> None:
    """`"user[-1]"` is the last of the user's tokens, of the whole conversation."""
    with (
        lm.capture(LAYER, tokens="assistant", phase="generated") as said,
        lm.capture(LAYER, tokens="assistant", phase="prompt", missing="ignore") as given,
        lm.capture(LAYER, tokens="user[-1]") as last,
        lm.capture(LAYER, tokens="assistant[0, 1]") as first,
    ):
        made = lm.chat(CHATS, **GREEDY)

    assert [len(row) for row in said.by_row(LAYER)] == [6, 6]
    ids = made.token_ids[1]
    rows = alone(lm, ids)
    spoken = positions(lm, ids[: made.prompt_lengths[1]], ["It jumps."])
    assert torch.allclose(given.by_row(LAYER)[0], rows[spoken], atol=1e-9)
    asked = positions(lm, ids, ["Over what?"])
    assert torch.allclose(last.by_row(LAYER)[1], rows[asked[-1:]], atol=1e-9)
    assert torch.allclose(first.by_row(LAYER)[1], rows[spoken[:2]], atol=1e-9)
    length = made.prompt_lengths[0]
    alone_rows = alone(lm, made.token_ids[0])[length : length + 2]
    assert torch.allclose(first.by_row(LAYER)[0], alone_rows, atol=1e-9)


def test_steering_by_a_role_is_steering_those_positions(lm: LanguageModel) -> None:
    """In a padded batch as alone, by a plain hook that counts positions."""
    direction = 3 * torch.randn(32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with lm.steer(EARLY, lambda h: h + direction, tokens="user"):
        together = lm.chat(CHATS, **GREEDY)
    plain = lm.chat(CHATS, **GREEDY)
    assert together.continuations != plain.continuations
    for row, chat in enumerate(CHATS):
        ids = lm.roles(chat)[0].ids
        wanted = [str(m["content"]) for m in chat if m["role"] == "user"]
        at = torch.tensor(positions(lm, list(ids), wanted))

        def hook(module: Any, args: Any, output: Any, at: Tensor = at) -> Any:
            h = (output[0] if isinstance(output, tuple) else output).clone()
            h[:, at] += direction
            return (h, *output[1:]) if isinstance(output, tuple) else h

        handle = lm.module.get_submodule(EARLY).register_forward_hook(hook)
        expected = lm.chat(chat, use_cache=False, **GREEDY)
        handle.remove()
        assert together.token_ids[row] == expected.token_ids[0]


class Says:
    """Has the model say so many tokens, whatever its logits are."""

    def __init__(self, ids: list[int], begin: int) -> None:
        self.ids, self.begin = ids, begin

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Leave one token possible."""
        at = input_ids.shape[1] - self.begin
        forced = torch.full_like(scores, -1e9)
        forced[:, self.ids[at] if at < len(self.ids) else 5] = 0
        return forced


@pytest.mark.parametrize("marks", [True, False], ids=["marks are tokens", "marks are text"])
@pytest.mark.parametrize("settings", [{}, {"use_cache": False}], ids=["cache", "no cache"])
def test_thinking_is_told_while_the_model_thinks(
    model: Any, chat_tokenizer: Callable[..., Any], settings: dict[str, Any], *, marks: bool
) -> None:
    """Each token when it is new; what comes after the mark that closes it is the answer."""
    lm = LanguageModel(model, chat_tokenizer(THINKS, marks=marks))
    parts = ["<think>", "so it is", "</think>", "yes"]
    split = [lm.tokenizer(part, add_special_tokens=False)["input_ids"] for part in parts]
    said = [id for part in split for id in part]
    begin = len(lm.roles(SHORT, template_kwargs={"add_generation_prompt": True})[0])
    with (
        lm.capture(LAYER, tokens="thinking") as thinking,
        lm.capture(LAYER, tokens="assistant") as assistant,
    ):
        made = lm.chat(
            SHORT,
            logits_processor=[Says(said, begin)],
            **{**GREEDY, **settings, "max_new_tokens": len(said)},
        )
    assert made.token_ids[0][begin:] == said
    opened, thought = len(split[0]), len(split[1]) + len(split[2])
    rows = alone(lm, made.token_ids[0])[begin:]
    end = opened + thought
    assert torch.allclose(thinking.by_row(LAYER)[0], rows[opened:end], atol=1e-9)
    spoken = torch.cat([rows[:opened], rows[end:]])
    assert torch.allclose(assistant.by_row(LAYER)[0], spoken, atol=1e-9)


def test_thinking_with_beams_is_refused(model: Any, chat_tokenizer: Callable[..., Any]) -> None:
    """What a beam has said is not known before the step runs; without marks nothing is refused."""
    lm = LanguageModel(model, chat_tokenizer(THINKS))
    with (
        pytest.raises((ValueError, HookError), match="whether the next one is thinking depends"),
        lm.capture(LAYER, tokens="thinking"),
    ):
        lm.chat(SHORT, num_beams=2, **GREEDY)
    with lm.capture(LAYER, tokens="user") as user:
        lm.chat(SHORT, num_beams=2, **GREEDY)
    assert len(user.by_row(LAYER)[0]) == len(lm.roles(SHORT)[0].where("user"))


def test_a_forward_over_messages(lm: LanguageModel) -> None:
    """Conversations run as texts do, padded, and selections of roles apply."""
    with lm.capture(LAYER, tokens="user") as user:
        _, encodings = lm.inference.execute_inference(CHATS)
        for _ in lm.inference.infer_dataset(CHATS, batch_size=1):
            pass
    roles = lm.roles(CHATS)
    assert encodings["attention_mask"].sum(1).tolist() == [len(each) for each in roles]
    wanted = [alone(lm, list(each.ids))[each.where("user")] for each in roles]
    assert torch.allclose(user[LAYER][0], torch.cat(wanted), atol=1e-9)
    assert torch.allclose(torch.cat([*user[LAYER][1:]]), torch.cat(wanted), atol=1e-9)


def test_roles_of_a_loop_of_ones_own(lm: LanguageModel) -> None:
    """Whoever runs the text says who says what in it."""
    (roles,) = lm.roles(LONG)
    ids = torch.tensor([list(roles.ids)])
    with generating([len(roles)], roles=[roles]), lm.capture(LAYER, tokens="system") as captured:
        lm(input_ids=ids)
    assert captured.where(LAYER)[0][:, 1].tolist() == roles.where("system")
    with pytest.raises(ValueError, match="There are 2 prompts and 1 roles"):
        generating([1, 2], roles=[roles]).__enter__()


def test_what_is_not_known_is_refused(lm: LanguageModel) -> None:
    """Text without roles, text that was cut, roles of another text, words that are none."""
    match = r"'user' are selected, and it is not known who says what.*lm\.chat\(messages\)"
    with pytest.raises(ValueError, match=match), lm.capture(LAYER, tokens="user"):
        lm.generate("A text.", **GREEDY)
    cut = {"truncation": True, "max_length": 12}
    with (
        pytest.raises(ValueError, match=r"row 0 of the forward is another text.*Was it cut\?"),
        lm.capture(LAYER, tokens="user"),
    ):
        lm.chat(LONG, tok_kwargs=cut, **GREEDY)
    with pytest.raises(ValueError, match="Did you mean 'user'"):
        Selection(tokens="usr")
    with pytest.raises(ValueError, match="not a selection of positions"):
        Selection(tokens="user[a]")
    with pytest.raises(TypeError, match=r"str is no conversation.*'role': 'user'"):
        lm.chat("Hello", **GREEDY)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="There are 2 tokens and 1 roles"):
        Roles(ids=[1, 2], names=["user"])
    with pytest.raises(ValueError, match=r"'users' is not a role\. The roles are 'assistant'"):
        lm.roles(SHORT)[0].where("users")
