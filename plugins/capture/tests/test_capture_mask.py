"""A model that does not honour its mask is refused, unless documents are run one by one."""

from collections.abc import Sequence
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from tenterhook_capture import CaptureOptions, MaskIgnored, begin_run, prepare_capture
from tenterhook_capture import save_activations as save
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore

TEXTS = ["one two three four", "five", "six seven", "eight nine ten", "eleven"]


class Recurrent(nn.Module):
    """Words through a GRU, whose state runs over padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(97, 6)
        self.cells = nn.GRU(6, 8, batch_first=True)
        self.out = nn.Linear(8, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Take ids, `(batch, seq)`, and a mask that it does not look at."""
        states, _ = self.cells(self.embed(ids))
        out: Tensor = self.out(states)
        return out


class RecurrentModel(WordModel):
    """Reads words with a state."""

    def __init__(self, padding: Literal["left", "right"], dtype: torch.dtype) -> None:
        super().__init__(padding=padding)
        torch.manual_seed(0)
        module = Recurrent().to(dtype).eval()
        super(WordModel, self).__init__(module, model_id="recurrent")


DTYPES = [torch.float32, torch.float64, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_that_runs_over_padding_is_refused(dtype: torch.dtype) -> None:
    """The layer, the difference and both ways out are named, and nothing is made."""
    store = MemoryStore()
    match = (
        r"does not honour its mask: at 'out' a document's rows are \d.* of their size off when it "
        r"is padded.*--batch-size 1 \(batch_size=1\), or pad on the right"
    )
    with pytest.raises(MaskIgnored, match=match) as error:
        save(RecurrentModel("left", dtype), "out", TEXTS, store)
    assert error.value.error > error.value.bound
    assert store.runs() == []


@pytest.mark.parametrize("dtype", DTYPES)
def test_documents_one_by_one_are_right(dtype: torch.dtype) -> None:
    """With a batch of one nothing is padded, so any model will do."""
    model, store = RecurrentModel("left", dtype), MemoryStore()
    run = store.run(save(model, "out", TEXTS, store, batch_size=1))
    for document, ids in enumerate(model.token_ids(TEXTS)):
        with model.capture("out") as captured:
            model.run_token_ids([ids])
        rows = run["out"][run.documents.rows(document)]
        assert torch.equal(rows, captured.last("out")[0])


def test_padding_behind_the_text_is_honoured() -> None:
    """A state that has read the text already is not changed by what comes after it."""
    store = MemoryStore()
    assert save(RecurrentModel("right", torch.float32), "out", TEXTS, store)


@pytest.mark.parametrize("texts", [["one two"], ["one two", "three four"], ["one", "two"]])
def test_documents_of_one_length_are_never_padded(texts: Sequence[str]) -> None:
    """Nothing is compared then, and no forward spent."""
    model, store = RecurrentModel("left", torch.float32), MemoryStore()
    save(model, "out", texts, store)
    assert len(model.batches) == 2


@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_models_that_honour_it_pass(padding: Any, dtype: torch.dtype) -> None:
    """Rounding is no reason, on either side and in any dtype."""
    store = MemoryStore()
    save(WordModel(padding=padding, dtype=dtype), ["blocks.1", "head"], TEXTS, store)


def test_it_costs_one_small_forward_of_a_new_run() -> None:
    """A run that is there, or was planned, was looked at already."""
    model, store = WordModel(), MemoryStore()
    options = CaptureOptions(batch_size=2)
    capture = prepare_capture(model, "head", TEXTS, options=options)
    assert model.batches == [[4, 1]]
    begin_run(store, capture, "run")
    assert model.batches == [[4, 1], [1]]
    save(model, "head", TEXTS, store, run_name="run", batch_size=2)
    assert model.batches[2:] == [[4, 1], [4, 1], [2, 3], [1]]


def test_what_is_given_to_a_layer_is_compared_too() -> None:
    """Inputs of a layer are rows as any."""
    with pytest.raises(MaskIgnored, match="at 'out:input'"):
        save(RecurrentModel("left", torch.float32), "out:input", TEXTS, MemoryStore())
