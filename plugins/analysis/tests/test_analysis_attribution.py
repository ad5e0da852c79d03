"""Direct logit attribution: the parts add up, and are what a norm with its scale held makes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook_analysis import NoReadout, NoSuchPosition, NotASum, direct_logit_attribution
from tenterhook_transformers import LanguageModel

Make = Callable[..., LanguageModel]
TEXT = "And God said unto Moses"


@pytest.mark.matrix(sample=3)
@pytest.mark.parametrize("family", ["gpt2", "llama", "llama-bias", "gemma2", "granite", "neox"])
def test_the_parts_add_up(make_lm: Make, family: str) -> None:
    """To the logit, and those of heads to their attention but for its bias."""
    settings = {"final_logit_softcapping": None} if family == "gemma2" else {}
    lm = make_lm(family, **settings)

    found = direct_logit_attribution(lm, TEXT, 17, position=2)

    with torch.no_grad():
        logits = lm.module(**lm.tokenize(TEXT)).logits[0]
    assert found.logit == pytest.approx(float(logits[2, 17]), rel=1e-3, abs=1e-3)
    assert float(found.values.sum()) == pytest.approx(found.logit, rel=1e-3, abs=1e-3)
    assert found.components[:3] == ("embed", "attn_out.0", "mlp_out.0")
    assert found.heads is not None
    assert found.heads.shape == (3, 4)


def by_hand(lm: LanguageModel, part: Tensor, stream: Tensor, token: int) -> float:
    """Return the part of a logit, by the formula of the model's own final norm."""
    model: Any = lm.module
    base = model.base_model
    if hasattr(base, "ln_f"):
        part = part - part.mean(-1, keepdim=True)
        scale = (stream.var(-1, unbiased=False) + base.ln_f.eps).rsqrt()
        return float((part * scale * base.ln_f.weight) @ model.lm_head.weight[token])
    scale = (stream.square().mean(-1) + base.norm.variance_epsilon).rsqrt()
    return float((part * scale * base.norm.weight) @ model.lm_head.weight[token])


@pytest.mark.parametrize("family", ["gpt2", "llama", "llama-bias"])
def test_each_part_is_what_the_formula_gives(make_lm: Make, family: str) -> None:
    """Attention, MLP and a head, at the last token."""
    lm = make_lm(family)
    blocks = lm.layers.index.blocks()
    with lm.capture("attn_out.1", "mlp_out.2", "z.1", blocks[-1]) as captured:
        lm.inference.execute_inference([TEXT])
    stream = captured.last(blocks[-1])[0, -1]
    z = captured.last("z.1")[0, -1]

    found = direct_logit_attribution(lm, TEXT, 5)

    with torch.no_grad():
        attention = by_hand(lm, captured.last("attn_out.1")[0, -1], stream, 5)
        mlp = by_hand(lm, captured.last("mlp_out.2")[0, -1], stream, 5)
        block: Any = lm.module.get_submodule(blocks[1])
        weight = block.attn.c_proj.weight.T if family == "gpt2" else block.self_attn.o_proj.weight
        one = by_hand(lm, weight[:, 16:24] @ z[2], stream, 5)
    assert found["attn_out.1"] == pytest.approx(attention, abs=1e-4)
    assert found["mlp_out.2"] == pytest.approx(mlp, abs=1e-4)
    assert found.heads is not None
    assert float(found.heads[1, 2]) == pytest.approx(one, abs=1e-4)


def test_of_the_model_that_ships(tiny: LanguageModel) -> None:
    """A word is a token; the table and the page have all parts."""
    found = direct_logit_attribution(tiny, TEXT, ",")

    assert found.token == tiny.single_token(",")
    assert found.token_text == ","
    assert float(found.values.sum()) == pytest.approx(found.logit, rel=1e-4)
    assert found.to_pandas().value.tolist() == found.values.tolist()
    assert "head 3" in found._repr_html_()
    assert repr(found).startswith("LogitAttribution(',', logit=")


def test_a_capped_logit(make_lm: Make) -> None:
    """The parts add up to what is capped."""
    found = direct_logit_attribution(make_lm("gemma2", final_logit_softcapping=2.0), TEXT, 3)

    assert float(found.values.sum()) == pytest.approx(found.logit, rel=1e-3, abs=1e-3)


def test_what_does_not_add_up(make_lm: Make) -> None:
    """Blocks that normalise the sum, models without logits, positions that are not there."""
    with pytest.raises(NotASum, match="has no direct parts: of block 0, what it returns is not"):
        direct_logit_attribution(make_lm("bert"), TEXT, 3)
    lm = make_lm("gpt2")
    with pytest.raises(NoSuchPosition, match="Position 50 is not in"):
        direct_logit_attribution(lm, TEXT, 3, position=50)
    bare = LanguageModel(lm.module.get_submodule("transformer"), lm.tokenizer)
    with pytest.raises(NoReadout, match="it has no layer that gives logits"):
        direct_logit_attribution(bare, TEXT, 3)
