"""Ways of generating in which padding gets into the text: refused, with the way out.

`test_tokens_matrix` says where; here is what is said.
"""

import pytest
import tokens_oracle as oracle
from small_architectures import ARCHITECTURES

import tenterhook

REFUSED = [
    ("Llama", "greedy", "right", r"padded on the right: LlamaForCausalLM .*padding_side='left'"),
    ("RWKV", "no cache", "left", r"a rwkv model lets padding into its state.* texts of one length"),
    ("Jamba", "chunks", "even", r"a jamba model does not go on from its state.* the whole text"),
    ("Mistral", "reused cache", "early", r"padding in the middle.* layers of sliding_attention"),
    ("LFM2", "reused cache", "early", r"padding in the middle.* layers of conv"),
    ("Bamba", "reused cache", "early", r"padding in the middle.* has a state"),
    ("T5", "chunks", "left", r"has T5ForConditionalGeneration forget .*encoder.* Leave it out"),
    ("BART", "greedy", "left", r"encoder of BartForConditionalGeneration .*padding_side='right'"),
    ("T5", "reused cache", "even", r"cache of T5ForConditionalGeneration .*past_key_values out"),
    ("RecurrentGemma", "beams", "even", r"recurrent_gemma model .*its beams.* without num_beams"),
    ("PaliGemma", "greedy", "even", r"PaliGemmaForConditionalGeneration look at later ones"),
]


@pytest.mark.filterwarnings("ignore")  # what transformers says of small models
@pytest.mark.parametrize(("name", "way", "side", "said"), REFUSED, ids=lambda value: str(value))
def test_refusals(name: str, way: str, side: str, said: str) -> None:
    """A selection of tokens is an error that says why, and what to do."""
    case = oracle.case_of(ARCHITECTURES[name], way, side)
    layer = ARCHITECTURES[name].layer
    with (
        pytest.raises(ValueError, match=said),
        tenterhook.attach(case.part).capture(layer, tokens=":"),
    ):
        case.generate()


@pytest.mark.filterwarnings("ignore")
def test_what_selects_no_tokens_is_not_refused() -> None:
    """A capture of everything, or of rows, has the calls as they came."""
    case = oracle.case_of(ARCHITECTURES["Llama"], "greedy", "right")
    layer = ARCHITECTURES["Llama"].layer
    attached = tenterhook.attach(case.part)
    with attached.capture(layer) as whole, attached.capture(layer, rows=0) as row:
        case.generate()
    assert len(whole[layer]) == len(row[layer]) == oracle.NEW
