"""Which points a model has: found by what its modules do in one small forward, never by a table.

What happens when the first name is asked for:

1. A twin of the model runs a few tokens, and everything its modules took and returned is recorded.
   Where the model has a kernel that shows no pattern, flash or flex, the twin has the eager one.
2. It runs again with our attention functions in place. The logits are to be the same to the bit.
   Blocks in which none of transformers' functions is called are looked through for a softmax.
3. Each name is held to what it says: `softmax(scores) = pattern`, `pattern @ v = z`, the sums of a
   block, the experts' sum. What does not come true is not offered, and the reason is kept.
4. The points are made for the model itself, whose modules have the twin's paths.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook import LayerIndex
from tenterhook.one_line import error_line
from tenterhook.points import Point, Points
from tenterhook_interiors import implementations as tables
from tenterhook_interiors.attention import OF_HEADS, WORDS, Attention
from tenterhook_interiors.ends import Ends
from tenterhook_interiors.forms import forms_of, is_before
from tenterhook_interiors.inputs import small_inputs
from tenterhook_interiors.own_attention import OwnAttention
from tenterhook_interiors.recording import Call, Recording, is_linear, record, same
from tenterhook_interiors.residual import Sum, find_sum
from tenterhook_interiors.sides import Experts, MidPoint, SidePoint, chosen
from tenterhook_interiors.translations import LIBRARIES, to_library
from tenterhook_interiors.twin import twin_of, whole
from tenterhook_interiors.watched import attentions_of

_OF_BLOCKS = (
    "resid_pre resid_mid resid_post attn_out mlp_out q_pre k_pre v q k scores pattern z "
    "mlp_pre mlp_act router experts"
)
_OF_MODELS = "embed final_norm unembed logits"


def find_points(module: nn.Module) -> Points | None:
    """Return the points of a model of transformers, `None` for any other module."""
    model = _inner(module)
    if not _is_of_transformers(model):
        return None
    prefix = _prefix(module, model)
    index = LayerIndex(model)
    blocks = index.blocks()
    words = _OF_BLOCKS.split()
    try:
        found = _Finder(model, blocks, prefix)
        with whole(module):
            found.find()
    except Exception as error:  # noqa: BLE001 - any model's code may run here, and it is shown
        why = f"The names of this model could not be proven: {error_line(error)}."
        names = [*_OF_MODELS.split(), *(f"{w}.{at}" for at in range(len(blocks)) for w in words)]
        return Points(layers={}, refused=dict.fromkeys(names, why))
    return found.points()


def _inner(module: nn.Module) -> nn.Module:
    """Return the model inside the wrappers that are known: compiled, peft's, DDP, FSDP."""
    inner: Any = module
    while True:
        if isinstance(getattr(inner, "_orig_mod", None), nn.Module):
            inner = inner._orig_mod
        elif callable(getattr(inner, "get_base_model", None)):
            inner = inner.get_base_model()
        elif type(inner).__name__ in ("DistributedDataParallel", "FullyShardedDataParallel"):
            inner = inner.module
        else:
            return inner  # type: ignore[no-any-return]


def _prefix(module: nn.Module, inner: nn.Module) -> str:
    name = next((name for name, each in module.named_modules() if each is inner), "")
    return f"{name}." if name else ""


def _is_of_transformers(module: nn.Module) -> bool:
    return any(kind.__name__ == "PreTrainedModel" for kind in type(module).__mro__)


class _Finder:
    """One look at a model."""

    def __init__(self, model: Any, blocks: list[str], prefix: str) -> None:
        self.model, self.blocks, self.prefix = model, blocks, prefix
        self.dtype = next(iter(model.parameters())).dtype
        self.layers: dict[str, Point | str] = {}
        self.refused: dict[str, str] = {}

    def points(self) -> Points:
        """Return what was found, in the order of the blocks."""
        order = {word: at for at, word in enumerate(_OF_BLOCKS.split())}

        def place(name: str) -> tuple[int, int, str]:
            word, _, number = name.partition(".")
            if not number:
                return (-1 if word == "embed" else len(self.blocks), 0, word)
            return int(number.partition(":")[0]), order[word], name

        layers = {name: self.layers[name] for name in sorted(self.layers, key=place)}
        config = self.model.config.get_text_config()
        rotary = getattr(config, "rope_parameters", None) is not None
        also = {
            library: {
                name: theirs
                for name in layers
                if (theirs := to_library(name, library, rotary=rotary)) is not None
            }
            for library in LIBRARIES
        }
        aliases: dict[str, str] = {}
        for number, found in self.attention.items():
            name = f"pattern.{number}"
            for alias in self._layers_of(number, found.path):
                if name in layers:
                    aliases[alias] = name
                else:
                    self.refused[alias] = self.refused[name]
        return Points(layers=layers, aliases=aliases, refused=self.refused, also=also)

    def _layers_of(self, number: int, path: str) -> Iterator[str]:
        """Yield `LAYER:attention` for an attention and the layers around it in its block."""
        while len(path) > len(self.blocks[number]):
            yield f"{self.prefix}{path}:attention"
            path = path.rpartition(".")[0]

    def find(self) -> None:
        """Run the twin, and offer what comes true."""
        twin: Any = twin_of(self.model)
        tables.prove_by_eager(twin)
        inputs = small_inputs(twin)
        self.recording = record(twin, inputs)
        with self._refusing(*_OF_MODELS.split()):
            self._find_ends(twin)
        with torch.no_grad():
            self.attention = attentions_of(twin, inputs, self.recording, self.blocks, self.dtype)
            for number, path in enumerate(self.blocks):
                with self._refusing(*(f"{word}.{number}" for word in _OF_BLOCKS.split())):
                    self._find_block(number, path)

    # --- attention

    def _prove_attention(self, number: int) -> None:
        found = self.attention[number]
        path, seen, kind = found.path, found.seen, found.kind
        if not found.is_true:
            why = "With our attention function in the place of the model's, its logits are others."
            return self._refuse(number, ("q_pre", "k_pre", *WORDS), why)
        module: Any = self.model.get_submodule(path)
        attention = kind(module, number)
        new = seen["q"].shape[1]  # a cache has more
        for word in ("q", "k", "v"):
            if word in found.several:
                why = "They enter several products of this attention, one of positions."
                self._refuse(number, (word,), why)
            elif same(seen.get(word), seen[f"{word} entering"][:, :new], self.dtype):
                self._offer(number, attention.points, (word,))
            else:
                why = "Its cache keeps something else (MLA), of which keys and values are made."
                self._refuse(number, (word,), why)
        name = "eager" if kind is OwnAttention else tables.implementation_of(module)
        self._prove_pattern(number, seen, attention, name)
        call = self.recording.of(path)
        for word in ("q", "k"):
            self._prove_before(number, path, word, seen[f"{word} entering"], call)
        return None

    def _prove_pattern(
        self, number: int, seen: dict[str, Tensor], attention: Attention, name: str
    ) -> None:
        if not {"scores", "pattern"} <= seen.keys():
            why = (
                f"Its eager attention function has no softmax of {type(attention.module).__name__}."
            )
            return self._refuse(number, ("scores", "pattern", "z"), why)
        scores, pattern = seen["scores"].double(), seen["pattern"].double()
        total = pattern.sum(-1, keepdim=True)  # less than one where there are sinks
        if not same(pattern, scores.softmax(-1) * total, self.dtype):
            self._refuse(number, ("scores", "pattern"), "softmax(scores) is not the pattern.")
        elif (hidden := tables.why_hidden(name)) is not None:
            self._refuse(number, ("scores", "pattern"), hidden)
        else:
            self._offer(number, attention.points, ("scores", "pattern"))
        values = seen["v entering"].double().transpose(1, 2)
        values = values.repeat_interleave(pattern.shape[1] // values.shape[1], 1)
        if same((pattern @ values).transpose(1, 2), seen["z"].double(), self.dtype):
            return self._offer(number, attention.points, ("z",))
        return self._refuse(number, ("z",), "The pattern times the values is not what heads give.")

    def _prove_before(
        self, number: int, path: str, word: str, after: Tensor, call: Call | None
    ) -> None:
        """Find the last module whose output is the queries, or keys, but for rotary positions."""
        for inner in reversed([*self.recording.inside(path)]):
            for form in forms_of(inner.result, after):
                if is_before(form.take(inner.result), after, self.dtype):  # type: ignore[arg-type]
                    module = self.model.get_submodule(inner.path)
                    name = f"{word}_pre.{number}"
                    point = self.layers[name] = SidePoint(name, module, "after", form).points[name]
                    point.axes = OF_HEADS
                    return
        why = "No layer returns what rotary positions are given."
        self._refuse(number, (f"{word}_pre",), why)

    # --- blocks

    def _find_block(self, number: int, path: str) -> None:
        block = self.recording.of(path)
        if block is None or block.given is None or block.result is None:
            return self._refuse(number, _OF_BLOCKS.split(), f"{path!r} did not run just once.")
        name = f"resid_pre.{number}"
        self.layers[name] = SidePoint(name, self.model.get_submodule(path), "before").points[name]
        self.layers[f"resid_post.{number}"] = self.prefix + path
        if number in self.attention:
            words = ("q_pre", "k_pre", *WORDS)
            with self._refusing(*(f"{word}.{number}" for word in words)):
                self._prove_attention(number)
            attention = self.attention[number].path
        else:
            kind = type(block.module).__name__
            why = (
                f"No attention of this {kind} goes through transformers' attention functions, nor "
                "is there one that multiplies a softmax of scores by values."
            )
            self._refuse(number, ("q_pre", "k_pre", *WORDS), why)
            attention = _attention_by_name(self.recording, path)
        found = find_sum(self.recording, block, attention, self._scales(), self.dtype)
        if found is None:
            why = "No two layers inside the block give what it adds to the stream."
            self._refuse(number, ("resid_mid", "attn_out", "mlp_out"), why)
        else:
            self._offer_sum(number, path, found)
        self._find_mlp(number, path, found)
        return None

    def _scales(self) -> list[float]:
        configs = [self.model.config, self.model.config.get_text_config()]
        found = (getattr(each, "residual_multiplier", None) for each in configs)
        return [float(each) for each in found if each]

    def _offer_sum(self, number: int, path: str, found: Sum) -> None:
        self.layers[f"attn_out.{number}"] = self.prefix + found.attention
        self.layers[f"mlp_out.{number}"] = self.prefix + found.mlp
        name = f"resid_mid.{number}"
        if found.middle == "sum":
            block, added = map(self.model.get_submodule, (path, found.attention))
            self.layers[name] = MidPoint(name, block, added, found.scale).points[name]
        elif found.middle is not None:
            self.layers[name] = self.prefix + found.middle
        else:
            self._refuse(number, ("resid_mid",), "Attention and MLP both read the block's input.")

    # --- MLP and experts

    def _find_mlp(self, number: int, path: str, found: Sum | None) -> None:
        experts = self._experts_in(path)
        if experts is not None:
            self._refuse(number, ("mlp_pre", "mlp_act"), "The block has experts, each an MLP.")
            with self._refusing(f"router.{number}", f"experts.{number}"):
                self._prove_experts(number, path, experts)
            return None
        why = "The block has no experts."
        if any("expert" in call.path.removeprefix(path) for call in self.recording.inside(path)):
            why = "Its experts are called with no ids and weights of those that are chosen."
        self._refuse(number, ("router", "experts"), why)
        last = None if found is None else self._last_projection(path, found.mlp)
        if last is None:
            why = "No linear layer gives what the MLP adds to the stream."
            return self._refuse(number, ("mlp_pre", "mlp_act"), why)
        act = last.given
        name = f"mlp_act.{number}"
        module = self.model.get_submodule(last.path)
        self.layers[name] = SidePoint(name, module, "before").points[name]
        for call in self.recording.inside(path):
            if _is_nonlinear(call) and act is not None and self._makes(call, act, path):
                name = f"mlp_pre.{number}"
                module = self.model.get_submodule(call.path)
                self.layers[name] = SidePoint(name, module, "before").points[name]
                return None
        return self._refuse(number, ("mlp_pre",), "No module is its nonlinearity.")

    def _last_projection(self, path: str, mlp: str) -> Call | None:
        """Return the linear layer whose output is what the MLP gives, or what its norm is given."""
        given = self.recording.of(mlp)
        targets = [] if given is None else [given.result, given.given]
        calls = [call for call in self.recording.inside(path) if is_linear(call.module)]
        for target in targets:
            for call in reversed(calls):
                is_last = same(call.result, target, self.dtype)
                if is_last and same(_product(call), call.result, self.dtype):
                    return call
        return None

    def _makes(self, call: Call, act: Tensor, path: str) -> bool:
        """Whether a nonlinearity's output is what enters the projection, gated or not."""
        out = call.result
        if out is None or out.shape != act.shape:
            return False
        if same(out, act, self.dtype):
            return True
        for each in self.recording.inside(path):
            parts = [] if each.result is None else [each.result, *each.result.chunk(2, -1)]
            for part in parts:  # gate and up may come of one layer
                if part.shape == out.shape and same(out * part, act, self.dtype):
                    return True
        return False

    def _experts_in(self, path: str) -> Call | None:
        for call in self.recording.inside(path):
            try:
                chosen(call.inputs)
            except LookupError:
                continue
            if call.result is not None:
                return call
        return None

    def _prove_experts(self, number: int, path: str, call: Call) -> None:
        """Hold the ids and weights to the experts' sum, one expert of each token at a time."""
        ids_at, weights_at = chosen(call.inputs)
        ids, weights = call.inputs[ids_at], call.inputs[weights_at]
        total: Any = 0
        for at in range(ids.shape[-1]):
            inputs = list(call.inputs)
            inputs[ids_at] = ids[..., at : at + 1]
            inputs[weights_at] = torch.ones_like(weights[..., at : at + 1])
            made = call.module(*inputs)  # of tokens in one axis, or as the stream has them
            total = total + made * weights[..., at].reshape(*made.shape[:-1], 1)
        router = self._router_of(path, call, ids)
        modules = [self.model.get_submodule(path), None, self.model.get_submodule(call.path)]
        if not same(total, call.result, self.dtype):
            why = "The chosen experts' outputs, weighted, are not what the experts return."
            self._refuse(number, ("experts",), why)
            modules[2] = None
        if router is None:
            why = "No layer gives logits whose largest are the experts that are chosen."
            self._refuse(number, ("router",), why)
        else:
            modules[1] = self.model.get_submodule(router)
        experts = Experts(number, modules[0], modules[1], modules[2])
        self.layers.update(experts.points)

    def _router_of(self, path: str, experts: Call, ids: Tensor) -> str | None:
        """Return the layer whose first product's largest are the chosen ids."""
        wanted = ids.sort(-1).values
        for call in self.recording.inside(path):
            weight, given = getattr(call.module, "weight", None), call.given
            if weight is None or weight.ndim != 2 or given is None or call is experts:
                continue
            if given.shape[-1] != weight.shape[1]:
                continue
            bias = getattr(call.module, "bias", None)
            logits = torch.nn.functional.linear(given, weight, bias).flatten(0, -2)
            if logits.shape[-1] < ids.shape[-1] or len(logits) != len(ids):
                continue
            largest = logits.topk(ids.shape[-1], -1).indices.sort(-1).values
            if torch.equal(largest, wanted):
                return call.path
        return None

    # --- ends

    def _find_ends(self, twin: Any) -> None:
        """Find the embedding, the last norm and what gives the logits."""
        ends = Ends(twin, self.recording, self.blocks, self.dtype)
        last = ends.unembed()
        self._end("embed", ends.embed())
        self._end("final_norm", ends.final_norm(last))
        if last is None:
            why = "The model has no layer that gives logits."
            self.refused |= dict.fromkeys(("unembed", "logits"), why)
            return
        self._end("unembed", last)
        if ends.gives_logits(last):
            self._end("logits", last)
        else:
            self.layers["logits"] = SidePoint("logits", self.model, "after").points["logits"]

    def _end(self, name: str, path: str | None) -> None:
        if path is None or self.recording.of(path) is None:
            self.refused[name] = "No one layer gives it."
        else:
            self.layers[name] = self.prefix + path

    # --- saying

    def _offer(self, number: int, points: dict[str, Point], words: tuple[str, ...]) -> None:
        self.layers.update({f"{word}.{number}": points[word] for word in words})

    @contextmanager
    def _refusing(self, *names: str) -> Iterator[None]:
        """Have what is raised in the block refuse those of the names that are not settled yet."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - any model's code may run here, and it is shown
            why = f"It could not be proven: {error_line(error)}."
            settled = self.layers.keys() | self.refused.keys()
            self.refused |= dict.fromkeys([name for name in names if name not in settled], why)

    def _refuse(self, number: int, words: Any, why: str) -> None:
        for word in words:
            self.refused[f"{word}.{number}"] = why


def _attention_by_name(recording: Recording, path: str) -> str:
    """Return the module of a block that is called an attention; it only orders two sums."""
    names = [call.path for call in recording.inside(path)]
    return next((n for n in names if "att" in n.removeprefix(path)), names[0] if names else path)


def _product(call: Call) -> Tensor | None:
    """Return what a linear layer has to give, of its input and weight as they are."""
    weight: Any = call.module.weight
    bias: Any = getattr(call.module, "bias", None)
    if call.given is None:
        return None
    if call.given.shape[-1] != weight.shape[-1]:
        weight = weight.T  # as GPT-2 keeps it
    if call.given.shape[-1] != weight.shape[-1]:
        return None
    return torch.nn.functional.linear(call.given, weight, bias)


def _is_nonlinear(call: Call) -> bool:
    """Whether a module has no weights and gives for each number another one."""
    given, out = call.given, call.result
    if given is None or out is None or given.shape != out.shape:
        return False
    return not any(True for _ in call.module.parameters()) and not torch.equal(given, out)
