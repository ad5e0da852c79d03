"""The logit lens: what a model would say if it ended after each of its layers."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, final, overload

import attrs
import torch
from torch import Tensor

from tenterhook_analysis.errors import AnalysisWarning
from tenterhook_analysis.grids import Grid
from tenterhook_analysis.readout import Readout
from tenterhook_analysis.results import Array, Result
from tenterhook_store import Run
from tenterhook_store.progress import showing
from tenterhook_transformers.language_model import LanguageModel

FAR = 0.02
"""How far the lens after the last block may be from the model's own logits, by norm."""


@final
@attrs.frozen(eq=False, kw_only=True)
class LogitLens(Result):
    """The likeliest next tokens by layer and position; see `logit_lens`."""

    layers: tuple[str, ...]
    input_tokens: tuple[str, ...]
    """What was read at each position."""
    token_ids: Tensor
    """int64 `[layer, position, rank]`, the likeliest first."""
    probabilities: Tensor
    """float32 `[layer, position, rank]`."""
    tokens: Sequence[Sequence[Sequence[str]]]
    """What `token_ids` stand for, in lists as they are."""

    @property
    def axes(self) -> Mapping[str, Sequence[Any]]:
        """Layer, position and rank."""
        return {
            "layer": self.layers,
            "position": range(len(self.input_tokens)),
            "rank": range(self.token_ids.shape[2]),
        }

    @property
    def arrays(self) -> Mapping[str, Array]:
        """Ids, what they stand for, probabilities, and the tokens that were read."""
        all_axes = ("layer", "position", "rank")
        return {
            "input_token": Array(self.input_tokens, ("position",)),
            "token_id": Array(self.token_ids, all_axes),
            "token": Array(self.tokens, all_axes),
            "probability": Array(self.probabilities, all_axes),
        }

    def grid(self) -> Grid:
        """Return the likeliest token of each layer, the last layer on top."""
        hovers = [
            [
                ", ".join(
                    f"{token!r} {probability:.3f}"
                    for token, probability in zip(tokens, probabilities, strict=True)
                )
                for tokens, probabilities in zip(of_layer, chances, strict=True)
            ]
            for of_layer, chances in zip(self.tokens, self.probabilities.tolist(), strict=True)
        ]
        return Grid(
            title="Logit lens",
            rows=self.layers[::-1],
            columns=self.input_tokens,
            values=self.probabilities[:, :, 0].flip(0),
            value_name="probability",
            texts=[[tokens[0] for tokens in each] for each in reversed(self.tokens)],
            hovers=hovers[::-1],
        )

    def __repr__(self) -> str:
        shape = tuple(self.token_ids.shape)
        return f"LogitLens(layers={list(self.layers)}, token_ids={shape})"


@overload
def logit_lens(  # type: ignore[overload-overlap]  # a str is a sequence of them, and comes first
    lm: LanguageModel,
    text: str | Run,
    layers: Sequence[str | int] | None = None,
    *,
    k: int = 10,
    rows: slice | None = None,
) -> LogitLens: ...


@overload
def logit_lens(
    lm: LanguageModel,
    text: Sequence[str],
    layers: Sequence[str | int] | None = None,
    *,
    k: int = 10,
    rows: None = None,
) -> list[LogitLens]: ...


def logit_lens(
    lm: LanguageModel,
    text: str | Sequence[str] | Run,
    layers: Sequence[str | int] | None = None,
    *,
    k: int = 10,
    rows: slice | None = None,
) -> LogitLens | list[LogitLens]:
    """Read the residual stream after each layer as the model reads it after its last block.

    `text` is a text, several of them, which are one batch and give a list, or a stored run of the
    model, of which `rows` are read, all without it: nothing is run then but what follows the last
    block. `layers` return the stream: all blocks of the model, or all layers of the run, unless
    given. The `k` likeliest tokens are kept.

    Source: nostalgebraist, "interpreting GPT: the logit lens" (2020). Cost: of text one forward;
    for each layer and token one final norm and one unembedding. Memory: what the layers returned,
    and 64 MB of logits.

    Raises `NoReadout` (a `TypeError`), `WrongWidth` (a `ValueError`) for layers that do not return
    the stream, and what capturing the layers or reading the run raises. Warns `AnalysisWarning`
    where the lens after the last block is not what the model says.
    """
    readout = Readout(lm)
    if isinstance(text, Run):
        return _of_run(lm, text, layers, k, rows or slice(None), readout)
    if rows is not None:
        raise ValueError("rows are those of a stored run; leave them out with a text.")
    texts = [text] if isinstance(text, str) else list(text)
    index = lm.layers.index
    blocks = index.blocks()
    wanted = blocks if layers is None else [each.name for each in index.expand(layers)]
    with lm.capture(*dict.fromkeys([*wanted, blocks[-1]])) as captured:
        output, encodings = lm.inference.execute_inference(texts)
    masks = encodings.get("attention_mask", torch.ones_like(encodings["input_ids"])).bool()
    _check(readout, captured.last(blocks[-1])[0][masks[0]][-1:], output.logits[0][masks[0]][-1:])
    found = []
    for at, mask in enumerate(masks):
        streams = {name: captured.last(name)[at][mask] for name in wanted}
        pieces = ((name, iter([stream])) for name, stream in streams.items())
        ids = encodings["input_ids"][at][mask].tolist()
        found.append(_lens(lm, readout, dict(pieces), ids, k))
    return found[0] if isinstance(text, str) else found


def _of_run(
    lm: LanguageModel,
    run: Run,
    layers: Sequence[str | int] | None,
    k: int,
    rows: slice,
    readout: Readout,
) -> LogitLens:
    start, stop, step = rows.indices(len(run))
    names = [run[each].name for each in (run.layers if layers is None else layers)]
    numbers = range(start, stop, step)

    def pieces(name: str) -> Iterator[Tensor]:
        for at in range(0, len(numbers), readout.at_once):
            some = numbers[at : at + readout.at_once]
            yield run[name][torch.tensor(some)] if step != 1 else run[name][some[0] : some[-1] + 1]

    ids = run.tokens[rows].tolist()
    return _lens(lm, readout, {name: pieces(name) for name in names}, ids, k)


def _lens(
    lm: LanguageModel,
    readout: Readout,
    streams: Mapping[str, Iterator[Tensor]],
    ids: Sequence[int],
    k: int,
) -> LogitLens:
    """Read the stream of each layer, given in pieces `[n, features]`."""
    count = min(k, readout.vocabulary)
    token_ids = torch.empty(len(streams), len(ids), count, dtype=torch.long)
    probabilities = torch.empty(len(streams), len(ids), count)
    with showing("Logit lens", len(streams) * len(ids), "rows of layers") as work:
        for layer, (name, pieces) in enumerate(streams.items()):
            at = 0
            for piece in pieces:
                readout.check(name, piece.shape[-1])
                for part in torch.split(piece, readout.at_once):
                    top = readout(part).float().softmax(-1).topk(count)
                    token_ids[layer, at : at + len(part)] = top.indices.cpu()
                    probabilities[layer, at : at + len(part)] = top.values.cpu()
                    at += len(part)
                    work(len(part))
    known = sorted({*ids, *token_ids.flatten().tolist()})
    strings = dict(zip(known, strings_of(lm, known), strict=True))
    return LogitLens(
        layers=tuple(streams),
        input_tokens=tuple(strings[id] for id in ids),
        token_ids=token_ids,
        probabilities=probabilities,
        tokens=[[[strings[id] for id in top] for top in each] for each in token_ids.tolist()],
    )


def strings_of(lm: LanguageModel, ids: Sequence[int]) -> list[str]:
    """Return what tokens stand for; `#17` for each of a model without a tokenizer."""
    return [f"#{id}" for id in ids] if lm.tokenizer is None else lm.token_strings(ids)


def _check(readout: Readout, row: Tensor, logits: Tensor) -> None:
    """Warn where what follows the last block is not what the model made of it."""
    found = readout(row).float()
    far = float((found - logits.float()).norm() / logits.float().norm().clamp_min(1e-30))
    if not far <= FAR:
        warnings.warn(
            f"The lens after the last block is {far:.1%} from the model's own logits. A hook "
            "stands after it, or the model uses more of its blocks than what the last one returns.",
            AnalysisWarning,
            stacklevel=3,
        )
