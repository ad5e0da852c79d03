"""A model that vLLM runs, in the form that captures take: layers by their standard names.

The engine has its model to itself, in a flat batch of its own making. What stands here for a model
is a module with one child for each point. A forward hands its documents to the engine as requests
that capture, puts their rows into one padded batch, and lets each child that somebody listens to
return it; so scopes and hooks that read are at work as on any model, and a capture is planned,
written, resumed and verified by the same code.

Hooks that change are refused: what they return would reach nobody. Requests say what to change.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook import HookedModel
from tenterhook.activity import changing
from tenterhook_vllm.admission import points_for
from tenterhook_vllm.engine_errors import ChangesNothing, RequestFailed
from tenterhook_vllm.engine_steps import KEY
from tenterhook_vllm.refusals import DISTRIBUTIONS

_TEXT = ("special_tokens", "vocabulary_size", "token_strings", "single_token", "roles")
"""What the model of transformers says of text beside ids, and captures use where it is there."""


class _Tap(nn.Module):
    """One point; its call returns what the forward put there."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: Tensor | None = None

    def forward(self) -> Tensor | None:
        rows, self.rows = self.rows, None
        return rows


class _EngineModule(nn.Module):
    """Stands for the engine's model."""

    def __init__(self, llm: Any, widths: Mapping[str, int], dtype: torch.dtype) -> None:
        super().__init__()
        self._llm = llm
        self._names = tuple(widths)
        # Tells of which dtype the rows are.
        self.register_buffer("_like", torch.zeros((), dtype=dtype), persistent=False)
        for name in widths:
            kind, _, at = name.partition(".")
            if not at:
                self.add_module(kind, _Tap())
                continue
            if kind not in self._modules:
                self.add_module(kind, nn.Module())
            self.get_submodule(kind).add_module(at, _Tap())

    def forward(self, documents: Sequence[Sequence[int]]) -> None:
        """Run the documents; each point that is listened to is called, in the model's order."""
        taps = {name: self.get_submodule(name) for name in self._names}
        # Hooks of ours stand at a module while something is to run there, and only then.
        wanted = [name for name, tap in taps.items() if tap._forward_hooks]
        if not wanted:
            return
        rows = self._captured(documents, wanted)
        for name in wanted:
            padded = nn.utils.rnn.pad_sequence([each.pop(name) for each in rows], batch_first=True)
            taps[name].rows = padded
            taps[name]()

    def _captured(
        self, documents: Sequence[Sequence[int]], points: Sequence[str]
    ) -> list[dict[str, Tensor]]:
        vllm: Any = import_module("vllm")
        params = vllm.SamplingParams(
            max_tokens=1,
            temperature=0.0,
            detokenize=False,
            extra_args={KEY: {"capture": list(points)}},
        )
        prompts = [{"prompt_token_ids": list(each)} for each in documents]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        found = []
        for document, output in zip(documents, outputs, strict=True):
            texts = [[*document, *output.outputs[0].token_ids]]
            kwargs = {"as_bytes": False}
            taken = self._llm.collective_rpc(
                "tenterhook_take", args=(output.request_id, texts), kwargs=kwargs
            )
            (table,) = taken[0]
            if "error" in table:
                raise RequestFailed(output.request_id, table["error"])
            found.append(dict(table["answer"].rows))
        return found


class EngineModel(HookedModel):
    """A `tenterhook_capture.text_model.TextModel` that an engine of vLLM runs."""

    def __init__(self, llm: Any, text: Any, *, name: str) -> None:
        """`text` is the model of transformers without weights, which tells of tokens."""
        points = points_for(llm.llm_engine.vllm_config)
        module = _EngineModule(llm, points.widths, points.dtype).eval()
        super().__init__(module, model_id=f"vllm:{name}", tokenizer=text.tokenizer)
        self.llm = llm
        """The `vllm.LLM`, for whoever wants to generate with it."""
        self.tokenizer = text.tokenizer
        self._text = text

    def __getattr__(self, name: str) -> Any:
        if name in _TEXT and "_text" in vars(self):
            return getattr(self._text, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    @property
    def max_tokens(self) -> int | None:
        """The longest document: one less than what the engine runs, since it samples a token."""
        longest = int(self.llm.llm_engine.vllm_config.model_config.max_model_len) - 1
        known = self._text.max_tokens
        return longest if known is None else min(longest, known)

    def token_ids(self, texts: Sequence[str], **settings: Any) -> list[list[int]]:
        """Return the token ids of each text, unpadded, as the loader of transformers does."""
        found: list[list[int]] = self._text.token_ids(texts, **settings)
        return found

    def token_ids_and_spans(self, texts: Sequence[str], **settings: Any) -> Any:
        """Return the ids of each text and where in it each token stands."""
        return self._text.token_ids_and_spans(texts, **settings)

    def run_token_ids(self, documents: Sequence[Sequence[int]]) -> Tensor:
        """Run the documents; return the mask of real tokens, padded on the right.

        Raises `ChangesNothing` while hooks that change stand here, `RequestFailed`.
        """
        changes = changing(self.layers)
        if changes:
            raise ChangesNothing(sorted({str(each.layer) for each in changes}))
        self(documents)
        lengths = torch.tensor([len(each) for each in documents])
        return torch.arange(int(lengths.max())) < lengths[:, None]

    def describe_model(self) -> dict[str, Any]:
        """Return what made the rows, in plain JSON values: as of transformers, run by vLLM."""
        from tenterhook_transformers.weights import weights_fingerprint

        config = self.llm.llm_engine.vllm_config
        said = dict(self._text.describe_model())
        (weights, *_) = self.llm.apply_model(weights_fingerprint)
        versions = {**said["versions"], **_versions()}
        return {
            **said,
            "name": self.context.model_id,
            "class": f"vllm.{config.model_config.architecture}",
            "attention": "vllm",
            "weights": weights,
            "buffers": None,
            "dtype": str(config.model_config.dtype).removeprefix("torch."),
            "quantization": config.model_config.quantization,
            "device": str(config.device_config.device_type),
            "versions": versions,
        }


def _versions() -> dict[str, str]:
    from importlib import metadata

    found = {}
    for name in (*DISTRIBUTIONS, "tenterhook-vllm"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found
