"""Points of models that are written as vLLM writes them: pairs whose sum is the stream."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tenterhook_vllm.engine_errors import UnsupportedModel, UnsupportedVllm
from tenterhook_vllm.families import FAMILIES, Family, family_of, widths_of
from tenterhook_vllm.points import ServedPoints
from tenterhook_vllm.probe import probe
from tenterhook_vllm.taps import Taps, check_modules

WIDTH, WORDS, BLOCKS = 6, 11, 3


class Norm(nn.Module):
    """Adds in place, as vLLM's does: what the caller holds is written over."""

    def forward(
        self, hidden: Tensor, residual: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return what is normed, and the sum."""
        if residual is None:
            return hidden / (1 + hidden.abs())
        residual += hidden
        hidden.copy_(residual / (1 + residual.abs()))
        return hidden, residual


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = Norm(), Norm()
        self.self_attn, self.mlp = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what the MLP adds, and the stream before it."""
        if residual is None:
            hidden, residual = self.input_layernorm(hidden), hidden.clone()
        else:
            hidden, residual = self.input_layernorm(hidden, residual)
        hidden = self.self_attn(hidden)
        hidden, residual = self.post_attention_layernorm(hidden, residual)
        return self.mlp(hidden), residual


class Logits(nn.Module):
    def forward(self, head: nn.Linear, hidden: Tensor) -> Tensor:
        """Return the scores."""
        found: Tensor = head(hidden)
        return found


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(WORDS, WIDTH)
        self.layers = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.norm = Norm()


class FusedModel(nn.Module):
    """A decoder whose layers return a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Inner()
        self.lm_head = nn.Linear(WIDTH, WORDS)
        self.logits_processor = Logits()

    def forward(self, ids: Tensor) -> Tensor:
        """Return the normed stream."""
        hidden, residual = self.model.embed(ids), None
        for layer in self.model.layers:
            hidden, residual = layer(hidden, residual)
        found: Tensor = self.model.norm(hidden, residual)[0]
        return found

    def compute_logits(self, hidden: Tensor) -> Tensor:
        """Return the scores of the normed stream."""
        found: Tensor = self.logits_processor(self.lm_head, hidden)
        return found


class Runner:
    """Runs the model on a token of nothing, as vLLM's runner does."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def get_model(self) -> nn.Module:
        """Return the model."""
        return self._model

    @torch.inference_mode()
    def _dummy_run(self, tokens: int) -> None:
        self._model(torch.zeros(tokens, dtype=torch.long))


CONFIG = SimpleNamespace(hidden_size=WIDTH, num_hidden_layers=BLOCKS, vocab_size=WORDS)
LLAMA = FAMILIES["LlamaForCausalLM"]


@pytest.fixture
def model() -> FusedModel:
    """Return a seeded one."""
    torch.manual_seed(0)
    return FusedModel().eval()


def _visited(
    model: FusedModel, visit: Callable[[str, Tensor], Tensor | None]
) -> tuple[dict[str, Tensor], Tensor]:
    found: dict[str, Tensor] = {}

    def noting(name: str, rows: Tensor) -> Tensor | None:
        made = visit(name, rows)
        found[name] = (rows if made is None else made).clone()
        return made

    points = widths_of(CONFIG, LLAMA)
    taps = Taps(model, LLAMA, points, noting)
    taps.use(points)
    try:
        with torch.no_grad():
            logits = model.compute_logits(model(torch.tensor([1, 2, 3, 4])))
    finally:
        taps.close()
    return found, logits


def test_the_stream_is_the_sum_of_a_pair(model: FusedModel) -> None:
    """A layer's first output alone is what its MLP adds."""
    found, _ = _visited(model, lambda name, rows: None)
    for at in range(BLOCKS):
        total = found[f"resid_mid.{at}"] + found[f"mlp_out.{at}"]
        torch.testing.assert_close(found[f"resid_post.{at}"], total)
    total = found["resid_post.0"] + found["attn_out.1"]
    torch.testing.assert_close(found["resid_mid.1"], total)


@pytest.mark.parametrize("kind", ["attn_out", "resid_mid", "mlp_out", "resid_post"])
def test_one_row_that_changes_leaves_the_others_to_the_bit(model: FusedModel, kind: str) -> None:
    """Adding and taking away again would round."""
    before, plain = _visited(model, lambda name, rows: None)

    def change(name: str, rows: Tensor) -> Tensor | None:
        if name != f"{kind}.1":
            return None
        made = rows.clone()
        made[2] = 0.5
        return made

    after, logits = _visited(model, change)
    others = [0, 1, 3]
    assert torch.equal(plain[others], logits[others])
    assert not torch.equal(plain[2], logits[2])
    assert torch.equal(after[f"{kind}.1"][2], torch.full((WIDTH,), 0.5))
    for name, rows in before.items():
        assert torch.equal(rows[others], after[name][others])


def test_no_hook_is_left(model: FusedModel) -> None:
    """And none stands where nobody needs it."""
    _visited(model, lambda name, rows: None)
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


def test_the_probe_is_content_with_a_model_that_adds_up(model: FusedModel) -> None:
    """It leaves nothing behind."""
    points = ServedPoints(widths_of(CONFIG, LLAMA), torch.float32)
    assert probe(Runner(model), LLAMA, points) == []
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())


@pytest.mark.parametrize(
    ("family", "why"),
    [
        (Family(is_pair=False), "resid_post.0 is not the sum of resid_mid.0 and mlp_out.0"),
        (Family(mlp="self_attn", attention="mlp"), "is not the sum of"),
        (Family(middle="input_layernorm"), "is not the sum of"),
    ],
    ids=["first output alone", "exchanged", "another norm"],
)
def test_the_probe_names_what_is_wrong(model: FusedModel, family: Family, why: str) -> None:
    """A layer that is read wrongly does not add up."""
    points = ServedPoints(widths_of(CONFIG, family), torch.float32)
    if family.middle == "input_layernorm":
        # The first layer's is given no pair there.
        with pytest.raises(ValueError, match="not enough values"):
            probe(Runner(model), family, points)
        return
    assert why in "; ".join(probe(Runner(model), family, points))


def test_the_probe_notices_points_that_never_come(model: FusedModel) -> None:
    """As of a module that the model has, and does not call."""
    model.model.add_module("idle", nn.Linear(WIDTH, WIDTH))
    for layer in model.model.layers:
        layer.add_module("idle", nn.Linear(WIDTH, WIDTH))
    family = Family(attention="idle")
    points = ServedPoints(widths_of(CONFIG, family), torch.float32)
    assert "no rows came by attn_out.0" in probe(Runner(model), family, points)


def test_a_module_that_is_not_there_is_named(model: FusedModel) -> None:
    """Before anything runs."""
    family = Family(attention="attention")
    taps = Taps(model, family, widths_of(CONFIG, family), lambda name, rows: None)
    with pytest.raises(UnsupportedVllm, match=r"vLLM 9.9 .*FusedModel has no module model.layers"):
        check_modules(taps, "9.9")


def test_an_architecture_that_nobody_knows_is_refused() -> None:
    """With those that are known, and the way out."""
    with pytest.raises(UnsupportedModel, match=r"'OddModel' has its points.*LlamaForCausalLM"):
        family_of(["OddModel"])


def test_points_of_experts() -> None:
    """A router has a score for each expert."""
    config = SimpleNamespace(**vars(CONFIG), num_local_experts=4)
    widths = widths_of(config, FAMILIES["MixtralForCausalLM"])
    assert widths["router.1"] == 4
    assert list(widths)[:5] == [
        "attn_out.0",
        "resid_mid.0",
        "router.0",
        "mlp_out.0",
        "resid_post.0",
    ]
    assert "resid_mid.0" not in widths_of(config, FAMILIES["GPT2LMHeadModel"])
