"""Captures on a GPU: rows go by pinned memory on a stream of their own, and none is torn."""

from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook_capture import save_activations
from tenterhook_capture.staging import BufferPool, FlatRows, Stage
from tenterhook_capture.testing.text_models import WordModel
from tenterhook_store import MemoryStore
from tenterhook_store.testing import same_bits

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here"),
]


class GpuModel(WordModel):
    """The model of words, on the GPU."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.module.cuda()

    def __call__(self, ids: Tensor, mask: Tensor) -> Any:
        """Run it."""
        return super().__call__(ids.cuda(), mask.cuda())


def save(writing: Any, **how: Any) -> Any:
    """Capture enough for buffers to be used many times, and open the run."""
    texts = [" ".join(f"w{at}.{i}" for i in range(1 + at % 16)) for at in range(500)]
    store = MemoryStore()
    layers = ["embed", "blocks.0", "blocks.1:input"]
    settings = {"batch_size": 7, "rows_per_unit": 512, "queue_bytes": 1 << 18, **how}
    model = GpuModel(width=256)
    return store.run(save_activations(model, layers, texts, store, writing=writing, **settings))


@pytest.mark.parametrize("how", [{}, {"bucket": True}, {"dtype": "bfloat16"}, {"dtype": "int8"}])
def test_rows_are_those_of_a_capture_inline(how: dict[str, Any]) -> None:
    """A thread that writes what a stream copies gives the same bits."""
    inline, threaded = save("inline", **how), save("auto", **how)
    for layer in inline.layers:
        assert same_bits(inline[layer][:], threaded[layer][:])


def test_a_copy_sees_what_was_there_when_it_was_asked_for() -> None:
    """What is computed later in the same memory does not change rows that are being copied."""
    stage = Stage(BufferPool(1 << 30, pinned=True))
    staged = []
    for number in range(50):
        busy = torch.randn(2048, 2048, device="cuda")
        for _ in range(5):
            busy = torch.tanh(busy @ busy)  # so that the copy is asked for long before it can begin
        rows = torch.full((4096, 256), float(number), device="cuda") + 0 * busy[0, 0]
        index = torch.arange(0, 4096, 2).cuda()
        staged.append(stage({"rows": FlatRows(rows, index, torch.float32)}, lambda: None))
        del rows, index, busy  # freed while the copy waits; the allocator must not reuse it
    for number, each in enumerate(staged):
        each.wait()
        assert (each.arrays["rows"] == number).all()
        each.release()


def test_buffers_are_pinned() -> None:
    """Memory that a stream copies to does not move."""
    assert BufferPool(1 << 20, pinned=True).take(10).is_pinned()
