"""Ways of generating, and what must come of a selection in each: an oracle of bare torch hooks.

Nothing of ours is used to find what is right. The returned rows, cut by the definition of a token,
run once more: each alone, whole, without a cache. A change is a bare hook on that run.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import attrs
import torch
from small_architectures import PAD, Architecture
from torch import Tensor, nn

import tenterhook

NEW = 7
"""How many tokens are generated."""

IDS = torch.tensor([[5, 6, 7, 8, 0, 0, 0], [11, 12, 13, 14, 15, 16, 17]])
SOURCE = torch.tensor([[21, 22, 23, 24, 25, 0, 0, 0], [31, 32, 33, 34, 35, 36, 37, 38]])
"""What encoders read."""

WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "no cache": {"use_cache": False},
    "static cache": {"cache_implementation": "static"},
    "chunks": {"prefill_chunk_size": 3},
    "reused cache": {},
    "sampling": {"do_sample": True, "num_return_sequences": 3},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "assisted": {},
    "prompt lookup": {"prompt_lookup_num_tokens": 3, "max_matching_ngram_size": 1},
}
ALONE = "assisted", "prompt lookup"
"""Ways that transformers has for one text at a time."""

SEARCHES = "sampling", "beams"
"""Ways whose text is another than that of the plain way."""

SIDES = "even", "left", "right", "early"
"""On which side a row is padded, if any; `early` is left, and it ends before the other."""


@attrs.frozen(eq=False)
class Case:
    """One way of generating, of one model."""

    model: Any
    architecture: Architecture
    way: str
    side: str
    settings: dict[str, Any]
    ids: Tensor
    """What is given, `(batch, seq)`: to the encoder where there is one."""
    mask: Tensor
    ends: frozenset[int]
    past: Any = None
    """The cache of the turn before, where one is reused."""
    held: Tensor | None = None
    """How many tokens of each row it has."""

    @property
    def part(self) -> Any:
        """What is attached to."""
        part = self.architecture.part
        return self.model if part is None else self.model.get_submodule(part)

    def generate(self) -> Tensor:
        """Return the sequences, the same ones each time."""
        more: dict[str, Any] = {}
        if self.past is not None:
            more["past_key_values"] = torch.load(self.past, weights_only=False)
            self.past.seek(0)
        if self.way == "assisted":
            more["assistant_model"] = self.architecture.make(seed=1)
        torch.manual_seed(1)
        found: Tensor = self.model.generate(
            self.ids, attention_mask=self.mask, **self.settings, **more
        )
        return found

    def texts(self, sequences: Tensor) -> list["Text"]:
        """Return the returned rows as texts, by their definition alone."""
        two = self.architecture.part is not None
        copies = len(sequences) // len(self.mask)
        texts = []
        for row, whole in enumerate(sequences):
            real = self.mask[row // copies].bool()
            source = self.ids[row // copies][real][None]
            if two:
                prompt, rest = whole[:1], whole[1:].tolist()
            else:
                prompt, rest = whole[: len(real)][real], whole[len(real) :].tolist()
            end = next((at + 1 for at, id in enumerate(rest) if id in self.ends), len(rest))
            ids = torch.cat([prompt, torch.tensor(rest[:end], dtype=torch.long)])
            held = 0 if self.held is None else int(self.held[row // copies])
            texts.append(Text(ids, len(prompt), held, source if two else None))
        return texts


@attrs.frozen(eq=False)
class Text:
    """One returned row without padding and filling."""

    ids: Tensor
    given: int
    """How many of its tokens were given."""
    held: int
    """How many of them a cache from before held."""
    source: Tensor | None
    """What the encoder read, `(1, seq)`."""

    def run(self, model: Any, ids: Tensor | None = None) -> Any:
        """Run the model on the text alone, or on other ids in its place."""
        ids = self.ids if ids is None else ids
        inputs = {"input_ids": ids[None]}
        if self.source is not None:
            inputs = {"input_ids": self.source, "decoder_input_ids": ids[None]}
        with torch.no_grad():
            return model(**inputs, use_cache=False)


@contextmanager
def bare_hook(module: nn.Module, act: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Have `act` look at what a module returns, or change it."""

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        whole = isinstance(output, tuple)
        new = act(output[0] if whole else output)
        if new is None:
            return None
        return (new, *output[1:]) if whole else new

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def case_of(architecture: Architecture, way: str, side: str) -> Case:
    """Return a case, with its cache or the id that ends a row early, if it has these."""
    model = architecture.make()
    ids = IDS if architecture.part is None else SOURCE
    if side == "even":
        ids = ids[1:].repeat(2, 1) + torch.tensor([[0], [40]])
    mask = (ids != PAD).long()
    if (
        side in ("left", "early") or way == "reused cache"
    ):  # where the turn before is padded on the left
        ids = torch.stack([ids[0].roll(int((mask[0] == 0).sum())), ids[1]])
        mask = (ids != PAD).long()
    if way in ALONE:
        ids, mask = ids[:1], mask[:1]
    settings = {"do_sample": False, "max_new_tokens": NEW, "pad_token_id": PAD, **WAYS[way]}
    case = Case(model, architecture, way, side, settings, ids, mask, frozenset())
    if side == "early":
        made = case.generate()[0, -NEW:].tolist()
        end = next((id for at, id in enumerate(made) if at > 1 and id not in made[:at]), made[0])
        case = attrs.evolve(
            case, ends=frozenset([end]), settings={**settings, "eos_token_id": [end]}
        )
    return _second_turn(case, right=side == "right") if way == "reused cache" else case


def _second_turn(case: Case, *, right: bool) -> Case:
    found = case.model.generate(
        case.ids, attention_mask=case.mask, return_dict_in_generate=True, **case.settings
    )
    past = getattr(found, "past_key_values", None)
    if past is None:
        raise NotImplementedError("it returns no cache")
    file = io.BytesIO()
    torch.save(past, file)
    file.seek(0)
    real = torch.zeros_like(found.sequences)
    real[:, : case.mask.shape[1]] = case.mask
    for row, text in enumerate(case.texts(found.sequences)):
        new = len(text.ids) - text.given
        real[row, case.mask.shape[1] : case.mask.shape[1] + new] = 1
    end = PAD if right else 43
    more = torch.tensor([[41, 42, end], [51, 52, 53]])  # the next turn
    ids = torch.cat([found.sequences, more], 1)
    mask = torch.cat([real, (more != PAD).long()], 1)
    held = real[:, :-1].sum(1)
    return attrs.evolve(case, ids=ids, mask=mask, past=file, held=held)


DIRECTION = torch.linspace(-1, 1, 16)


def steered_from(given: int) -> Callable[[Tensor], Tensor]:
    """Return the change of the tokens from number `given` on, of a text alone."""

    def change(activation: Tensor) -> Tensor:
        new = activation.clone()
        new[:, given:] += DIRECTION.to(new.dtype)
        return new

    return change


def _add(activation: Tensor) -> Tensor:
    return activation + DIRECTION.to(activation.dtype)


def expected(case: Case, text: Text, *, steered: bool) -> tuple[Tensor, Tensor]:
    """Return what the last block and the model give for one text, `(tokens, features)`."""
    seen: list[Tensor] = []

    def keep(activation: Tensor) -> None:
        seen.append(activation.clone())

    first, last = (case.part.get_submodule(name) for name in names(case))
    with bare_hook(last, keep), ExitStack() as scopes:
        if steered:
            scopes.enter_context(bare_hook(first, steered_from(text.given)))
        output = text.run(case.model)
    return seen[-1][0], output.logits[0]


def names(case: Case) -> tuple[str, str]:
    """Return the first block, which is steered, and the last."""
    return case.architecture.first, case.architecture.layer


@attrs.frozen(eq=False)
class Captured:
    """What `generate` returned, and what captures of tokens have of it."""

    sequences: Tensor
    rows: list[Tensor]
    """All tokens of each row."""
    prompt: list[Tensor]
    generated: list[Tensor]
    """Of rows that have any."""


def captured(case: Case, *, steered: bool) -> Captured:
    """Return what captures have of a case."""
    attached = tenterhook.attach(case.part)
    first, last = names(case)
    with (
        attached.capture(last, tokens=":") as whole,
        attached.capture(last, phase="prompt") as prompt,
        attached.capture(last, phase="generated", missing="ignore") as made,
        ExitStack() as scopes,
    ):
        if steered:
            change = attached.steer(first, _add, phase="generated", missing="ignore")
            scopes.enter_context(change)
        sequences = case.generate()
    return Captured(sequences, *(each.by_row(last) for each in (whole, prompt, made)))


def _is_greedy(text: Text, logits: Tensor, near: float) -> bool:
    """Whether a text is what the plain way goes on with: the best logits, or as good as these."""
    scores = logits[text.given - 1 : -1]
    made = text.ids[text.given :, None]
    return bool((scores.max(1).values - scores.gather(1, made)[:, 0] <= near).all())


def difference(case: Case, found: Captured, *, steered: bool) -> str | None:
    """Return what is wrong with the rows that captures have of a case; `None` where nothing is."""
    rows, prompt = found.rows, found.prompt
    texts = case.texts(found.sequences)
    if not len(rows) == len(prompt) == len(texts):
        return f"there are {len(rows)} and {len(prompt)} rows of {len(texts)}"
    near = case.architecture.near
    made = iter(found.generated)
    for at, text in enumerate(texts):
        wanted, logits = expected(case, text, steered=steered)
        if case.way not in SEARCHES and not _is_greedy(text, logits, near):
            return f"row {at} is another text"
        wanted = wanted[text.held :]
        missing = len(wanted) - len(rows[at])
        if missing not in (0, 1):  # the last token of a text is not run by each way
            return f"row {at} has {len(rows[at])} tokens of {len(wanted)}"
        given = text.given - text.held
        wanted = wanted[: len(rows[at])]
        own = next(made) if len(wanted) > given else wanted[:0]
        for what, one, right in (
            ("its tokens", rows[at], wanted),
            ("its prompt", prompt[at], wanted[:given]),
            ("what was generated", own, wanted[given:]),
        ):
            if one.shape != right.shape:
                return f"row {at}, {what}: {tuple(one.shape)}, not {tuple(right.shape)}"
            far = float((one - right).abs().max()) if len(right) else 0.0
            if not far <= near:  # also not a number
                return f"row {at}, {what}: {far:.1e} away"
    return "rows of generated tokens that there are not" if any(True for _ in made) else None
