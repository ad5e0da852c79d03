"""Words for tokens: what ours mean, and where a word makes no sense."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tenterhook
import tenterhook_selections.plugin
from tenterhook.plugins import PluginManager, using
from tenterhook_selections import Seen, Selection, generating


@pytest.fixture(autouse=True)
def words(plugin_manager: PluginManager) -> None:
    """Have the words of the plugin itself."""
    plugin_manager.register(tenterhook_selections.plugin, "selections")


class Model(torch.nn.Module):
    """Takes ids and a mask, and has a layer of one feature a token."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Identity()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Take `(batch, seq)` twice; return `(batch, seq, 1)`."""
        found: Tensor = self.layer(input_ids[..., None].float())
        return found


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_last_is_the_latest_token_of_each_row(lengths: list[int], left: bool) -> None:
    """By its word's function as by position -1, whichever side the padding is on."""
    at = torch.arange(5).flip(0) if left else torch.arange(5)
    mask = (at < torch.tensor(lengths)[:, None]).long()
    model = tenterhook.attach(Model())
    manager = PluginManager(autoload=False)
    manager.register(tenterhook_selections.plugin, "selections")
    seen = Seen.read(mask, 5)

    with using(manager), model.capture("layer", tokens="last") as captured:
        model(torch.arange(5).expand(len(lengths), 5), mask)
        picked = manager.load("selectors", "last")(seen) & seen.real

    rows, positions = captured.where("layer")[0].T.tolist()
    assert rows == list(range(len(lengths)))
    assert positions == [length - 1 for length in lengths]
    assert picked.sum(1).tolist() == [1] * len(lengths)


def test_prompt_and_generated_split_what_runs() -> None:
    """As `phase` does."""
    model = tenterhook.attach(Model())
    ids, mask = torch.tensor([[1, 2, 3, 4]]), torch.ones(1, 4)

    with (
        generating([3]),
        model.capture("layer", tokens="prompt") as prompt,
        model.capture("layer", tokens="generated") as generated,
        model.capture("layer", phase="generated") as phase,
    ):
        model(ids, mask)

    assert prompt.last("layer").flatten().tolist() == [1, 2, 3]
    assert generated.last("layer").flatten().tolist() == [4]
    assert torch.equal(generated.last("layer"), phase.last("layer"))


def test_words_round_trip() -> None:
    """A selection of a word is a value like any other; "last" is position -1, as ever."""
    assert Selection(tokens="prompt").tokens == "prompt"
    assert Selection(tokens="last").tokens == (-1,)
    assert Selection(tokens="prompt") == Selection(tokens="prompt")


def test_words_are_for_tokens_alone() -> None:
    """Neither rows nor features have words."""
    with pytest.raises(ValueError, match="not a selection of positions"):
        Selection(rows="prompt")
    with pytest.raises(ValueError, match="not a selection of positions"):
        Selection(features="prompt")


def test_a_word_is_not_known_beforehand() -> None:
    """Where rows are laid out before anything runs, it is refused."""
    with pytest.raises(ValueError, match="known in a forward alone"):
        Selection(tokens="prompt").positions(5)


def test_plugins_that_clash_over_a_word(plugin_manager: PluginManager) -> None:
    """What a program registers by hand is what it means."""
    mine = tenterhook.Extension("even", "fractions:Fraction", "Mine.")
    hook = tenterhook.hookimpl(specname="tenterhook_selectors")(lambda: [mine])
    plugin_manager.register(SimpleNamespace(tenterhook_selectors=hook), "mine")

    assert Selection(tokens="even").tokens == "even"
