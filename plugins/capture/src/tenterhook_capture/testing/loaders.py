"""What every model loader does: a contract to inherit.

class TestMyLoader(LoaderContract):
    name = "small"

    def load(self, name, **settings):
        return my_package.load(name, **settings)
"""

import inspect
import json
from abc import abstractmethod
from typing import Any

import pytest
import torch
from torch import nn

from tenterhook import HookRegistry, assert_clean
from tenterhook_capture import save_activations
from tenterhook_capture.text_model import TextModel
from tenterhook_store import MemoryStore

TEXTS = ["In the beginning", "God created the heaven and the earth", "And"]


class LoaderContract:
    """A loader gives a model that captures can run; `load` and `name` say which."""

    name: str = ""
    """The part of a model's name after the scheme; of a small model that needs no network."""
    unknown_name: str = "there-is-no-such-model"

    @abstractmethod
    def load(self, name: str, **settings: Any) -> TextModel:
        """Call the loader."""

    @pytest.fixture
    def model(self) -> TextModel:
        """Load the model."""
        return self.load(self.name)

    def test_it_takes_what_loaders_take(self) -> None:
        """`dtype`, `device` and `revision`, `None` where nobody asks."""
        self.load(self.name, dtype=None, device=None, revision=None)

    def test_it_takes_dtype_and_device(self) -> None:
        """And the model is of that dtype, there."""
        model = self.load(self.name, dtype=torch.float64, device="cpu")
        assert model.context.dtype is torch.float64
        assert model.context.device == torch.device("cpu")

    def test_an_unknown_name_is_a_users_mistake(self) -> None:
        """A `ValueError` or `LookupError` that shows the name."""
        with pytest.raises((ValueError, LookupError)) as error:
            self.load(self.unknown_name)
        assert self.unknown_name in str(error.value)

    def test_it_has_layers_and_a_context(self, model: TextModel) -> None:
        """Of one module, with a name."""
        assert isinstance(model.layers, HookRegistry)
        assert isinstance(model.context.model, nn.Module)
        assert model.context.model_id
        assert model.layers.list_layers()

    def test_texts_are_tokens(self, model: TextModel) -> None:
        """A list of ids per text, not padded, alike each time."""
        ids = model.token_ids(TEXTS)
        assert len(ids) == len(TEXTS)
        assert ids == model.token_ids(TEXTS)
        assert all(type(id) is int for each in ids for id in each)
        assert ids[1] == model.token_ids([TEXTS[1]])[0]
        assert model.token_ids([]) == []

    def test_a_batch_has_a_mask_of_real_tokens(self, model: TextModel) -> None:
        """Bool `(batch, seq)` on the CPU, as many as each document has; nothing is left open."""
        ids = model.token_ids(TEXTS)
        mask = model.run_token_ids(ids)
        assert (mask.dtype, mask.device.type) == (torch.bool, "cpu")
        assert mask.sum(-1).tolist() == [len(each) for each in ids]
        assert_clean(model.context.model)

    def test_a_forward_records_no_gradients(self, model: TextModel) -> None:
        """It runs in eval mode, and puts back what it was."""
        layer = model.layers.list_layers()[-1]
        model.context.model.train()
        with model.capture("output") as captured:
            model.run_token_ids(model.token_ids(TEXTS[:1]))
        assert not captured.last("output").requires_grad
        assert model.context.model.training
        assert layer

    def test_padding_makes_no_difference(self, model: TextModel) -> None:
        """A document's rows are the same in a batch and alone, but for rounding."""
        layer = model.layers.list_blocks()[-1] if model.layers.list_blocks() else "output"
        rows = []
        for texts in (TEXTS, TEXTS[2:]):
            store = MemoryStore()
            run = store.run(save_activations(model, layer, texts, store))
            rows.append(run[layer][run.documents.rows(len(texts) - 1)])
        torch.testing.assert_close(rows[0], rows[1], rtol=1e-3, atol=1e-3)

    def test_the_description_is_plain_and_stays(self, model: TextModel) -> None:
        """JSON values; two loads of one model have one description, bar `device`, `versions`."""
        found = model.describe_model()
        again = self.load(self.name).describe_model()
        assert json.loads(json.dumps(found)) == found
        for key in ("device", "versions"):
            found.pop(key, None)
            again.pop(key, None)
        assert found == again

    def test_the_description_knows_the_weights(self, model: TextModel) -> None:
        """Another weight is another model."""
        before = model.describe_model()
        with torch.no_grad():
            next(model.context.model.parameters()).add_(1)
        assert model.describe_model() != before

    def test_the_longest_document_runs(self, model: TextModel) -> None:
        """`max_tokens` is what one forward takes; `None` is no limit."""
        longest = model.max_tokens
        assert longest is None or longest > 0
        ids = model.token_ids([TEXTS[1]])[0]
        document = (ids * (min(longest or 64, 4096) // len(ids) + 1))[: min(longest or 64, 4096)]
        assert model.run_token_ids([document]).sum() == len(document)

    def test_it_can_be_called_with_keywords(self) -> None:
        """The loader itself, not what it returns."""
        assert callable(inspect.unwrap(self.load))
