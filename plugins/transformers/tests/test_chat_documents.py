"""Conversations as documents of a run: the template's tokens once, and rows of a role alone."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch
from torch import Tensor

from tenterhook_capture import BadArgument, CaptureOptions, prepare_capture, save_activations
from tenterhook_capture.documents import Documents, UnreadableData, read_documents
from tenterhook_store import LocalStore, MemoryStore, OtherRun
from tenterhook_transformers import LanguageModel

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    "{% endfor %}"
)
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The quick fox."}],
    [{"role": "user", "content": "a longer question, is it?"}],
    [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Short."}],
]
LAYER = "model.layers.1"


@pytest.fixture
def lm(
    make_model: Callable[..., Any], chat_tokenizer: Callable[..., Any], tmp_path: Path
) -> LanguageModel:
    """A small Llama with a template that begins with a token, and a store."""
    model = make_model("llama", vocab_size=340, max_position_embeddings=256)
    return LanguageModel(model, chat_tokenizer(TEMPLATE), LocalStore(tmp_path / "store"))


def alone(lm: LanguageModel, ids: list[int]) -> Tensor:
    """Run one document by itself and return what the layer gives."""
    kept: list[Tensor] = []

    def hook(module: Any, args: Any, output: Any) -> None:
        kept.append((output[0] if isinstance(output, tuple) else output).detach()[0])

    handle = lm.module.get_submodule(LAYER).register_forward_hook(hook)
    with torch.no_grad():
        lm.module(input_ids=torch.tensor([ids]))
    handle.remove()
    return kept[0]


def ids_of(lm: LanguageModel) -> list[list[int]]:
    """Return what transformers makes of the conversations."""
    return [lm.tokenizer.apply_chat_template(each, return_dict=False) for each in CHATS]


def lines(tmp_path: Path) -> str:
    """Write JSON lines with a field `messages`."""
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"id": 1, "messages": each}) + "\n" for each in CHATS))
    return str(path)


def table(_: Path) -> Any:
    """Make a data set of Hugging Face with a column `messages`."""
    datasets = pytest.importorskip("datasets")
    return datasets.Dataset.from_dict({"messages": CHATS})


SOURCES: dict[str, Callable[[Path], Any]] = {
    "lists": lambda _: CHATS,
    "JSON lines": lines,
    "a data set": table,
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=list(SOURCES))
def test_rows_are_those_of_the_template_s_tokens(
    lm: LanguageModel, source: Callable[[Path], Any], tmp_path: Path
) -> None:
    """With its special tokens once, wherever the conversations come from."""
    assert lm.store is not None
    run = lm.store.run(lm.activations.save(LAYER, source(tmp_path)))
    for at, ids in enumerate(ids_of(lm)):
        rows = run.documents.rows(at)
        assert run.tokens[rows].tolist() == ids
        assert torch.allclose(run[LAYER][rows], alone(lm, ids), atol=1e-5)


@pytest.mark.parametrize("role", ["user", "assistant", "user[-1]", "user[0, -1]"])
def test_rows_of_a_role_alone(lm: LanguageModel, role: str) -> None:
    """The same rows as of all tokens, those of the role."""
    assert lm.store is not None
    run = lm.store.run(lm.activations.save(LAYER, CHATS, tokens=role, batch_size=2))
    wanted = [
        alone(lm, ids)[roles.where(role)]
        for ids, roles in zip(ids_of(lm), lm.roles(CHATS), strict=True)
    ]
    assert torch.allclose(run[LAYER][:], torch.cat(wanted), atol=1e-5)


def test_the_same_conversations_are_the_same_run(lm: LanguageModel, tmp_path: Path) -> None:
    """Given or read; and a forward over them takes them, too."""
    read = read_documents(lines(tmp_path))
    assert (read.are_messages, read.field) == (True, "messages")
    assert read.fingerprint == Documents.of(CHATS).fingerprint
    assert Documents.of(list(read)).fingerprint != read.fingerprint  # as texts
    with lm.capture(LAYER, tokens="user") as user:
        for _ in lm.inference.infer_dataset(read, batch_size=2):
            pass
    counts = [len(roles.where("user")) for roles in lm.roles(CHATS)]
    assert len(user.cat(LAYER)) == sum(counts)


def test_what_cannot_be_read_is_refused(lm: LanguageModel, tmp_path: Path) -> None:
    """Roles of texts, roles that cannot be told, and records that are no messages."""
    with pytest.raises(BadArgument, match="these documents are texts, and messages alone have"):
        lm.activations.save(LAYER, ["a text"], tokens="user")
    calls = [{"role": "assistant", "content": "x", "tool_calls": [{"name": "f"}]}]
    with pytest.raises(BadArgument, match=r"told in document 0.*tool calls"):
        lm.activations.save(LAYER, [calls], tokens="user")
    path = tmp_path / "broken.jsonl"
    path.write_text('{"messages": [{"content": "x"}]}\n')
    with pytest.raises(UnreadableData, match=r"line 1.*this list is no conversation"):
        read_documents(str(path))


@pytest.mark.parametrize("options", [{}, {"reduce": ("mean",), "keep_rows": False}])
def test_another_template_is_another_run(
    lm: LanguageModel, chat_tokenizer: Callable[..., Any], options: dict[str, Any]
) -> None:
    """The messages are the same, the tokens are not; nor are they with another date."""
    other = LanguageModel(lm.module, chat_tokenizer(TEMPLATE.replace("\n", " ")), lm.store)
    first = lm.activations.save(LAYER, CHATS, **options)
    assert lm.activations.save(LAYER, CHATS, **options) == first
    assert other.activations.save(LAYER, CHATS, **options) != first
    with pytest.raises(OtherRun, match="template not the same"):
        other.activations.save(LAYER, CHATS, run_name=first, **options)


def test_conversations_of_an_earlier_version_go_on(
    lm: LanguageModel, chat_tokenizer: Callable[..., Any]
) -> None:
    """It noted the template's text, if anything, and not the tokens."""
    store = MemoryStore()
    for noted_text in (True, False):
        capture = prepare_capture(lm, LAYER, CHATS, options=CaptureOptions())
        spec = attrs.evolve(capture.spec, template_fingerprint=None)
        about = dict(capture.plan.about)
        if not noted_text:
            del about["template"]
        plan = attrs.evolve(capture.plan, spec=spec.values(), about=about)
        store.write_run(spec.run_id(), plan)
        assert save_activations(lm, LAYER, CHATS, store) == spec.run_id()
        assert save_activations(lm, LAYER, CHATS, store) == spec.run_id()
        other = LanguageModel(lm.module, chat_tokenizer(TEMPLATE.replace("\n", " ")))
        why = "template not the same" if noted_text else "rows is .* there and"
        with pytest.raises(OtherRun, match=why):
            save_activations(other, LAYER, CHATS, store, run_name=spec.run_id())
        store.delete_run(spec.run_id())
