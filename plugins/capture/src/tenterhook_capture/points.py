"""Where rows are taken: the outputs and inputs of layers, and the patterns of attention layers.

A layer that a forward calls several times has one of each for every call.
"""

import re
from collections.abc import Sequence
from typing import Literal, get_args

import attrs

from tenterhook.plugins import default_manager
from tenterhook_capture.errors import BadArgument
from tenterhook_capture.text_model import TextModel

Side = Literal["input", "attention", "output"]
SIDES: tuple[Side, ...] = get_args(Side)

_CALL = re.compile(r"call=([0-9]{1,9})")
_PATTERN = re.compile(r"(pattern|scores)\.\d+")
"""Names inside an attention whose last axes are queries and keys."""


@attrs.frozen
class Point:
    """A layer, and what of it is kept."""

    layer: str
    side: Side = "output"
    call: int | None = None
    """Which call of a forward, from 0; `None` where there is one."""

    @property
    def name(self) -> str:
        """What its rows go by: `blocks.0`, `blocks.0:input`, `shared:attention:call=2`."""
        side = "" if self.side == "output" else f":{self.side}"
        return f"{self.layer}{side}{self._call}"

    @property
    def _call(self) -> str:
        return "" if self.call is None else f":call={self.call}"

    @property
    def is_pattern(self) -> bool:
        """Whether a row of it is what a token attends to: heads times keys."""
        return self.side == "attention" or bool(_PATTERN.fullmatch(self.layer))

    def name_by(self, layer: str) -> list[str]:
        """Return what it may be called, where its layer goes by another name."""
        if self.side != "output":
            return [f"{layer}:{self.side}{self._call}"]
        return [f"{layer}{self._call}", f"{layer}:output{self._call}"]


def points_of(
    model: TextModel, layers: str | int | Sequence[str | int], *, inputs: bool = False
) -> list[Point]:
    """Return the points that are asked for, each once, in the model's order.

    A choice is a layer in any spelling, of which the output is meant, or with `inputs` the input;
    with `:input`, `:output` or `:attention` after it, that side; with `:call=2`, its third call of
    a forward alone.

    Raises `BadArgument` for no layer, and for what only a layer inside the model has; what
    `LayerIndex.expand` raises for an unknown one.
    """
    choices = [layers] if isinstance(layers, str | int) else list(layers)
    if not choices:
        raise BadArgument("layers", layers, "one layer at least")
    known = model.layers.list_layers()
    found = set()
    for choice in choices:
        name, side, call = _parted(choice, [*known, *_asked_whole(model, choice)])
        if name == "":
            raise BadArgument(
                "layer", choice, "the name of a layer; 'output' is what the model returns"
            )
        for layer in model.layers.index.expand([name]):
            point = Point(layer.name, side or ("input" if inputs else "output"), call)
            if layer.module is model.layers.index.module and point.side != "output":
                raise BadArgument(
                    "layer",
                    choice,
                    "a layer inside the model: of the whole one only the output is"
                    " kept, and the token ids are kept of every row",
                )
            found.add(point)
    place = {name: at for at, name in enumerate(known)}

    def order(p: Point) -> tuple[int, str, int, int]:
        call = -1 if p.call is None else p.call
        return place.get(p.layer, len(known)), p.layer, SIDES.index(p.side), call

    return sorted(found, key=order)


def spellings(model: TextModel, points: Sequence[Point]) -> dict[str, str]:
    """Return the other names of the points: `layer_N`, and indices as text, sides after them."""
    known, blocks = model.layers.list_layers(), model.layers.list_blocks()
    standard = model.layers.standard_names()
    named = {} if standard is None else standard.layers
    found: dict[str, str] = {}
    for point in points:
        others = [f"layer_{at}" for at, name in enumerate(blocks) if name == point.layer]
        others += [each for each, name in named.items() if name == point.layer]
        if point.layer in known:
            at = known.index(point.layer)
            others += [str(at), str(at - len(known))]
        names = [name for other in (point.layer, *others) for name in point.name_by(other)]
        found |= {name: point.name for name in names if name != point.name}
    return found


def _asked_whole(model: TextModel, choice: str | int) -> list[str]:
    """Return the point with a colon in its name, `experts.3:ids`, that a choice begins with."""
    word = str(choice).partition(".")[0]
    if ":" not in str(choice) or word not in default_manager().extensions("points"):
        return []
    layers = model.layers.index.points(word).layers
    whole = [name for name in layers if ":" in name and str(choice).startswith(name)]
    return sorted(whole, key=len)[-1:]


def _parted(choice: str | int, known: Sequence[str]) -> tuple[str | int, Side | None, int | None]:
    """Return a choice as the layer, the side and the call that it says, in either order."""
    name: str | int = choice
    side: Side | None = None
    call: int | None = None
    while isinstance(name, str) and name not in known and ":" in name:
        name, _, word = name.rpartition(":")
        number = _CALL.fullmatch(word)
        if number and call is None:
            call = int(number[1])
        elif word in SIDES and side is None:
            side = word
        else:
            words = [f":{each}" for each in (*SIDES, "call=0")]
            raise BadArgument("layer", choice, f"a layer, or one with {', '.join(words)} after it")
    return name, side, call
