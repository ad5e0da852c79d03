"""The detectors of what goes into a whole model and of what comes out."""

import copy
import pickle
from collections import UserDict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import tenterhook
import tenterhook_model_io
from tenterhook.hooks import Detector, HookType
from tenterhook.plugins import PluginManager
from tenterhook_model_io import ModelInputDetector, ModelOutputDetector, plugin

IDS = torch.tensor([[0, 5, 6, 2], [0, 7, 2, 1]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


class _Model(nn.Module):
    """Takes ids as language models do; returns what it was told to."""

    def __init__(self, output: Any = None) -> None:
        super().__init__()
        self.embed = nn.Embedding(8, 3)
        self.output = output

    def forward(
        self, input_ids: Any = None, attention_mask: Any = None, inputs_embeds: Any = None
    ) -> Any:
        """Return it."""
        return self.output


def attach(detector: Detector, **more: Any) -> tenterhook.HookedModel:
    """Return a model with the detector on its side."""
    model = tenterhook.attach(_Model(**more))
    side = "input" if detector.hook_type is HookType.PRE_FORWARD else "output"
    model.layers.register_hook(side, detector)
    return model


class TestInputs:
    def test_defaults(self) -> None:
        """It is a detector before the model that keeps ids and no mask."""
        detector = ModelInputDetector()

        assert isinstance(detector, Detector)
        assert detector.hook_type is HookType.PRE_FORWARD
        assert detector.layer_signature is None
        assert (detector.save_input_ids, detector.save_attention_mask) == (True, False)
        assert detector.special_token_ids is None
        assert detector.get_captured_input_ids() is None
        assert detector.get_captured_attention_mask() is None

    def test_positions_of_arguments(self) -> None:
        """Layer, id, ids, mask and special ids, in this order."""
        detector = ModelInputDetector("input", "mine", False, True, [1])

        assert (detector.layer_signature, detector.id) == ("input", "mine")
        assert (detector.save_input_ids, detector.save_attention_mask) == (False, True)
        assert detector.special_token_ids == {1}

    @pytest.mark.parametrize(
        ("args", "kwargs"),
        [
            pytest.param((IDS, MASK), {}, id="position"),
            pytest.param((), {"attention_mask": MASK, "input_ids": IDS}, id="keyword"),
            pytest.param((IDS,), {"attention_mask": MASK}, id="mixed"),
            pytest.param(({"input_ids": IDS, "attention_mask": MASK},), {}, id="dict"),
            pytest.param((UserDict(attention_mask=MASK, input_ids=IDS),), {}, id="mapping"),
            pytest.param(
                (), {"input_ids": {"input_ids": IDS, "attention_mask": MASK}}, id="dict-by-keyword"
            ),
        ],
    )
    def test_every_way(self, args: Any, kwargs: Any) -> None:
        """Ids and mask are seen however they are passed."""
        detector = ModelInputDetector(save_attention_mask=True)
        attach(detector)(*args, **kwargs)

        ids, mask = detector.get_captured_input_ids(), detector.get_captured_attention_mask()
        assert ids is detector.tensor_metadata["input_ids"]
        assert mask is detector.tensor_metadata["attention_mask"]
        assert torch.equal(ids, IDS)
        assert torch.equal(mask, MASK)
        assert detector.metadata["input_ids_shape"] == (2, 4)
        assert detector.metadata["attention_mask_shape"] == (2, 4)

    @pytest.mark.parametrize("module", [nn.Embedding(8, 3), nn.Sequential(nn.Embedding(8, 3))])
    def test_a_model_with_other_names(self, module: nn.Module) -> None:
        """A model whose input has another name: its first tensor holds the ids."""
        detector = ModelInputDetector()
        model = tenterhook.attach(module)
        model.layers.register_hook("input", detector)
        model(IDS)
        assert torch.equal(detector.tensor_metadata["input_ids"], IDS)

    @pytest.mark.parametrize("kind", [dict, UserDict])
    def test_a_mapping_without_ids(self, kind: Any) -> None:
        """Another integer tensor of it is not taken for them."""
        detector = ModelInputDetector(save_attention_mask=True)
        attach(detector)(kind(attention_mask=MASK, labels=IDS))
        assert detector.get_captured_input_ids() is None
        assert detector.get_captured_attention_mask() is None

    def test_what_is_saved(self) -> None:
        """Each key is there only if it was asked for."""
        detector = ModelInputDetector(save_input_ids=False, save_attention_mask=True)
        attach(detector)(IDS, MASK)

        assert detector.get_captured_input_ids() is None
        assert list(detector.tensor_metadata) == ["attention_mask"]
        assert list(detector.metadata) == ["attention_mask_shape"]
        detector = ModelInputDetector()
        attach(detector)(IDS, MASK)
        assert list(detector.tensor_metadata) == ["input_ids"]

    def test_second_name(self) -> None:
        """`"inputs"` gives the tensor of `"input_ids"`."""
        detector = ModelInputDetector()
        assert detector.tensor_metadata.get("inputs") is None
        assert "inputs" not in detector.tensor_metadata
        with pytest.raises(KeyError):
            detector.tensor_metadata["inputs"]

        attach(detector)(IDS)

        ids = detector.tensor_metadata["input_ids"]
        assert detector.tensor_metadata.get("inputs") is ids
        assert detector.tensor_metadata["inputs"] is ids
        assert "inputs" in detector.tensor_metadata
        assert dict(detector.tensor_metadata) == {"input_ids": ids}
        assert isinstance(detector.tensor_metadata, dict)

    def test_own_memory(self) -> None:
        """What was kept is the user's own."""
        detector, ids = ModelInputDetector(), IDS.clone()
        attach(detector)(ids)
        ids.zero_()
        assert torch.equal(detector.tensor_metadata["input_ids"], IDS)
        with torch.inference_mode():
            attach(ModelInputDetector())
            detector.set_inputs_from_encodings({"input_ids": IDS})
        assert not detector.tensor_metadata["input_ids"].is_inference()

    def test_latest_call(self) -> None:
        """The latest call counts; one without ids leaves nothing."""
        detector = ModelInputDetector(save_attention_mask=True)
        model = attach(detector)
        model(IDS, MASK)
        model(IDS[:1])
        assert torch.equal(detector.tensor_metadata["input_ids"], IDS[:1])
        assert detector.tensor_metadata["attention_mask"].tolist() == [[1, 1, 1, 1]]

        model(inputs_embeds=torch.ones(1, 2, 3))
        assert detector.get_captured_input_ids() is None
        assert detector.get_captured_attention_mask() is None
        assert detector.metadata == {}

    def test_clear(self) -> None:
        """`clear_captured` forgets, at any time."""
        detector = ModelInputDetector(save_attention_mask=True)
        detector.clear_captured()
        attach(detector)(IDS, MASK)
        detector.clear_captured()
        assert (dict(detector.tensor_metadata), detector.metadata) == ({}, {})
        assert detector.tensor_metadata.get("inputs") is None

    @pytest.mark.parametrize("again", [copy.deepcopy, lambda d: pickle.loads(pickle.dumps(d))])
    def test_copies(self, again: Any) -> None:
        """A copy keeps what was kept, by both names."""
        detector = ModelInputDetector()
        attach(detector)(IDS)
        twin = again(detector)
        assert torch.equal(twin.tensor_metadata.get("inputs"), IDS)


class TestMask:
    """The saved mask is 1 only where the model's mask is 1 and the id is no special token."""

    def saved(self, special: Any, mask: Any = MASK, context: Any = None) -> Any:
        """Return the mask that is saved for `IDS`."""
        detector = ModelInputDetector(save_attention_mask=True, special_token_ids=special)
        model = attach(detector)
        model.context.special_token_ids = context
        model(IDS, attention_mask=mask)
        found = detector.get_captured_attention_mask()
        return None if found is None else found.tolist()

    @pytest.mark.parametrize(
        ("special", "expected"),
        [
            (None, [[1, 1, 1, 1], [1, 1, 1, 0]]),
            ([], [[1, 1, 1, 1], [1, 1, 1, 0]]),
            ([0, 2], [[0, 1, 1, 0], [0, 1, 0, 0]]),
            ((0,), [[0, 1, 1, 1], [0, 1, 1, 0]]),
            ({99}, [[1, 1, 1, 1], [1, 1, 1, 0]]),
            (torch.tensor([0, 2]), [[0, 1, 1, 0], [0, 1, 0, 0]]),
        ],
        ids=["none", "empty", "list", "tuple", "absent", "tensor"],
    )
    def test_special_ids(self, special: Any, expected: Any) -> None:
        """Special ids are left out, whatever they come in."""
        assert self.saved(special) == expected

    def test_from_the_context(self) -> None:
        """Without an argument the context's ids count; an argument comes first."""
        assert self.saved(None, context=[0]) == [[0, 1, 1, 1], [0, 1, 1, 0]]
        assert self.saved([2], context=[0]) == [[1, 1, 1, 0], [1, 1, 0, 0]]
        assert self.saved([], context=[0]) == [[1, 1, 1, 1], [1, 1, 1, 0]]

    def test_from_the_tokenizer(self) -> None:
        """The context has them of the tokenizer."""
        detector = ModelInputDetector(save_attention_mask=True)
        model = attach(detector)
        model.context.tokenizer = SimpleNamespace(all_special_ids=[0, 2])
        model(IDS, MASK)
        assert detector.tensor_metadata["attention_mask"].tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]

    def test_from_a_tokenizer_that_lists_none(self) -> None:
        """They are those that it names."""
        detector = ModelInputDetector(save_attention_mask=True)
        model = attach(detector)
        model.context.tokenizer = SimpleNamespace(bos_token_id=0, eos_token_id=2, pad_token_id=None)
        model(IDS, MASK)
        assert detector.tensor_metadata["attention_mask"].tolist() == [[0, 1, 1, 0], [0, 1, 0, 0]]

    def test_no_mask(self) -> None:
        """A call without a mask has one of ones."""
        assert self.saved([0], None) == [[0, 1, 1, 1], [0, 1, 1, 1]]

    @pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.float32])
    def test_dtypes(self, dtype: torch.dtype) -> None:
        """Whatever a mask is made of."""
        assert self.saved([0], MASK.to(dtype)) == [[0, 1, 1, 1], [0, 1, 1, 0]]

    def test_of_a_cached_step(self) -> None:
        """Where the mask covers the past as well, its end is the ids'."""
        past = torch.cat([torch.zeros(2, 3, dtype=torch.int64), MASK], 1)
        assert self.saved([2], past) == [[1, 1, 1, 0], [1, 1, 0, 0]]

    @pytest.mark.parametrize("kind", ["bool", "int", "added"])
    @pytest.mark.parametrize("past", [0, 3])
    def test_of_queries_and_keys(self, kind: str, past: int) -> None:
        """Of a mask of four axes those tokens count that some query sees."""
        sees = MASK[:, None, None].bool() & torch.ones(4, 4, dtype=torch.bool).tril()
        sees = torch.nn.functional.pad(sees, (past, 0))
        added = torch.zeros(sees.shape).masked_fill(~sees, -torch.inf)
        mask = {"bool": sees, "int": sees.long(), "added": added}[kind]
        assert self.saved([0], mask) == [[0, 1, 1, 1], [0, 1, 1, 0]]
        assert self.saved([], mask[:1]) == [[1, 1, 1, 1], [1, 1, 1, 1]]


class TestEncodings:
    @pytest.mark.parametrize("kind", [torch.tensor, lambda rows: rows], ids=["tensors", "lists"])
    @pytest.mark.parametrize("wrap", [dict, UserDict])
    def test_sets_the_same(self, kind: Any, wrap: Any) -> None:
        """A tokenizer's result sets what a call would have."""
        detector = ModelInputDetector(save_attention_mask=True, special_token_ids=[0])
        encodings = {"input_ids": kind(IDS.tolist()), "attention_mask": kind(MASK.tolist())}

        detector.set_inputs_from_encodings(wrap(encodings), module=_Model())

        assert torch.equal(detector.tensor_metadata["inputs"], IDS)
        assert detector.tensor_metadata["attention_mask"].tolist() == [[0, 1, 1, 1], [0, 1, 1, 0]]
        assert detector.metadata["input_ids_shape"] == (2, 4)

    def test_without_a_mask(self) -> None:
        """A mask need not be there."""
        detector = ModelInputDetector(save_attention_mask=True)
        detector.set_inputs_from_encodings({"input_ids": IDS})
        assert detector.tensor_metadata["attention_mask"].tolist() == [[1] * 4] * 2

    def test_without_ids(self) -> None:
        """Encodings without ids are refused, with what they hold."""
        with pytest.raises(ValueError, match=r"hold \['attention_mask'\], no 'input_ids'"):
            ModelInputDetector().set_inputs_from_encodings({"attention_mask": MASK})

    def test_uneven_lists(self) -> None:
        """Lists that make no tensor are refused."""
        with pytest.raises(ValueError, match="expected sequence of length"):
            ModelInputDetector().set_inputs_from_encodings({"input_ids": [[1, 2], [3]]})


LOGITS, HIDDEN, LOSS = torch.ones(2, 3, 8), torch.full((2, 3, 4), 2.0), torch.tensor(0.5)


class TestOutputs:
    def test_defaults(self) -> None:
        """It is a detector after the model that keeps logits and no hidden state."""
        detector = ModelOutputDetector()

        assert detector.hook_type is HookType.FORWARD
        assert detector.layer_signature is None
        assert (detector.save_output_logits, detector.save_output_hidden_state) == (True, False)
        assert detector.get_captured_output_logits() is None
        assert detector.get_captured_output_hidden_state() is None

    def test_positions_of_arguments(self) -> None:
        """Layer, id, logits and hidden state, in this order."""
        detector = ModelOutputDetector("output", "mine", False, True)

        assert (detector.layer_signature, detector.id) == ("output", "mine")
        assert (detector.save_output_logits, detector.save_output_hidden_state) == (False, True)

    @pytest.mark.parametrize(
        ("output", "logits", "hidden"),
        [
            pytest.param(LOGITS, LOGITS, None, id="tensor"),
            pytest.param((LOGITS, None), LOGITS, None, id="tuple"),
            pytest.param((LOSS, LOGITS), LOGITS, None, id="loss-first"),
            pytest.param({"loss": LOSS, "logits": LOGITS}, LOGITS, None, id="dict"),
            pytest.param(
                SimpleNamespace(loss=LOSS, logits=LOGITS, hidden_states=(LOSS, HIDDEN)),
                LOGITS,
                HIDDEN,
                id="object",
            ),
            pytest.param(SimpleNamespace(last_hidden_state=HIDDEN), None, HIDDEN, id="no-head"),
            pytest.param("text", None, None, id="nothing"),
            pytest.param(None, None, None, id="none"),
        ],
    )
    def test_outputs(self, output: Any, logits: Any, hidden: Any) -> None:
        """Logits and last hidden state are found in whatever a model returns."""
        detector = ModelOutputDetector(save_output_hidden_state=True)
        assert attach(detector, output=output)(IDS) is output

        for found, key, expected in [
            (detector.get_captured_output_logits(), "output_logits", logits),
            (detector.get_captured_output_hidden_state(), "output_hidden_state", hidden),
        ]:
            if expected is None:
                assert found is None
                assert key not in detector.tensor_metadata
                assert f"{key}_shape" not in detector.metadata
            else:
                assert found is detector.tensor_metadata[key]
                assert torch.equal(found, expected)
                assert found.data_ptr() != expected.data_ptr()
                assert detector.metadata[f"{key}_shape"] == tuple(expected.shape)

    def test_huggingface(self) -> None:
        """In transformers' outputs too, whose fields may be missing."""
        outputs = pytest.importorskip("transformers.modeling_outputs")
        detector = ModelOutputDetector(save_output_hidden_state=True)
        model = attach(detector, output=outputs.CausalLMOutputWithPast(loss=LOSS, logits=LOGITS))
        model(IDS)
        assert torch.equal(detector.tensor_metadata["output_logits"], LOGITS)
        assert detector.get_captured_output_hidden_state() is None

        model.module.output = outputs.BaseModelOutput(last_hidden_state=HIDDEN)
        model(IDS)
        assert torch.equal(detector.tensor_metadata["output_hidden_state"], HIDDEN)
        assert detector.get_captured_output_logits() is None

    def test_what_is_saved(self) -> None:
        """Each key is there only if it was asked for."""
        detector = ModelOutputDetector(save_output_logits=False)
        attach(detector, output=LOGITS)(IDS)
        assert dict(detector.tensor_metadata) == {}

    def test_second_name(self) -> None:
        """`"outputs"` gives the tensor of `"output_logits"`."""
        detector = ModelOutputDetector()
        assert detector.tensor_metadata.get("outputs") is None
        attach(detector, output=LOGITS)(IDS)
        assert detector.tensor_metadata.get("outputs") is detector.tensor_metadata["output_logits"]
        detector.clear_captured()
        assert detector.tensor_metadata.get("outputs") is None
        assert detector.metadata == {}

    def test_changes_nothing(self) -> None:
        """The model's gradients are those without it, what was kept is in no graph."""
        torch.manual_seed(0)
        module, detector = nn.Sequential(nn.Linear(2, 2)), ModelOutputDetector()
        bare = copy.deepcopy(module)
        tenterhook.attach(module).layers.register_hook("output", detector)
        for each in (module, bare):
            each(torch.ones(1, 2)).sum().backward()
        assert torch.equal(module[0].weight.grad, bare[0].weight.grad)  # type: ignore[arg-type]
        assert not detector.tensor_metadata["output_logits"].requires_grad

    def test_inference_mode(self) -> None:
        """What was kept in inference mode is the user's own tensor."""
        detector = ModelOutputDetector()
        with torch.inference_mode():
            attach(detector, output=LOGITS)(IDS)
        detector.tensor_metadata["output_logits"].add_(1)
        assert not detector.tensor_metadata["output_logits"].is_inference()


class TestPackage:
    @pytest.mark.parametrize("detector", [ModelInputDetector, ModelOutputDetector])
    def test_served(self, detector: Any) -> None:
        """`tenterhook.hooks` hands out the same classes, which the plugin declares."""
        import tenterhook.hooks

        manager = PluginManager(autoload=False)
        manager.register(plugin)
        assert getattr(tenterhook.hooks, detector.__name__) is detector
        assert manager.extension("detectors", detector.__name__).load() is detector

    def test_public_names(self) -> None:
        """The package gives out its detectors, and nothing of any other name."""
        assert tenterhook_model_io.__all__ == ["ModelInputDetector", "ModelOutputDetector"]
        with pytest.raises(AttributeError, match="has no attribute 'Other'"):
            tenterhook_model_io.Other  # noqa: B018

    def test_on_a_bare_module(self) -> None:
        """Both work as torch hooks, keyword inputs with `with_kwargs=True`."""
        module, inputs, outputs = _Model(LOGITS), ModelInputDetector(), ModelOutputDetector()
        module.register_forward_pre_hook(inputs.get_torch_hook(), with_kwargs=True)
        module.register_forward_hook(outputs.get_torch_hook())

        kept: Tensor = module(input_ids=IDS)

        assert torch.equal(inputs.tensor_metadata["inputs"], IDS)
        assert torch.equal(outputs.tensor_metadata["outputs"], kept)
