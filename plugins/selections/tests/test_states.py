"""Recurrent models of one's own: positions go on with the state that a forward returned."""

import pytest
import torch
from torch import Tensor, nn

import tenterhook


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)

    def forward(self, input_ids: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        out, state = self.gru(self.embed(input_ids), state)
        return out, state


IDS = torch.arange(12).reshape(2, 6)


@pytest.fixture
def model() -> tenterhook.HookedModel:
    """A recurrent model."""
    torch.manual_seed(0)
    return tenterhook.attach(_Recurrent())


@pytest.mark.parametrize("detached", [False, True])
def test_positions_go_on(model: tenterhook.HookedModel, detached: bool) -> None:
    """From step to step, also where the state is detached."""
    with (
        model.capture("gru", tokens=":") as captured,
        model.capture("gru", phase="prompt") as prompt,
        model.capture("gru", tokens=4) as fourth,
    ):
        state = None
        for part in (IDS[:, :3], IDS[:, 3:4], IDS[:, 4:]):
            _, state = model(part, state)
            state = state.detach() if detached else state
    whole, _ = model(IDS)
    assert torch.allclose(torch.stack(captured.by_row("gru")), whole)
    assert [len(call) for call in prompt["gru"]] == [6, 0, 0]
    assert [len(call) for call in fourth["gru"]] == [0, 0, 2]


def test_a_state_to_begin_with(model: tenterhook.HookedModel) -> None:
    """Zeros are no tokens."""
    with model.capture("gru", tokens=0) as captured:
        _, state = model(IDS[:, :3])
        model(IDS[:, 3:], state)
        model(IDS, torch.zeros(1, 2, 8))
    assert [len(call) for call in captured["gru"]] == [2, 0, 2]


def test_a_state_that_nobody_returned(model: tenterhook.HookedModel) -> None:
    """How many tokens it has behind it is not known."""
    said = r"state is no state that a forward returned.*Pass it on"
    with model.capture("gru", tokens=":"):
        _, state = model(IDS[:, :3])
        _, state = model(IDS[:, 3:4], state)
        with pytest.raises(ValueError, match=said):
            model(IDS[:, 4:], 2 * state)
