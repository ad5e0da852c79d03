"""Where rows are taken: the outputs and inputs of layers, and the patterns of attention layers."""

from collections.abc import Sequence
from typing import Literal, get_args

import attrs

from tenterhook_capture.errors import BadArgument
from tenterhook_capture.text_model import TextModel

Side = Literal["input", "attention", "output"]
SIDES: tuple[Side, ...] = get_args(Side)


@attrs.frozen
class Point:
    """A layer, and what of it is kept."""

    layer: str
    side: Side = "output"

    @property
    def name(self) -> str:
        """What its rows go by: `blocks.0`, `blocks.0:input`, `blocks.0.attn:attention`."""
        return self.layer if self.side == "output" else f"{self.layer}:{self.side}"


def points_of(
    model: TextModel, layers: str | int | Sequence[str | int], *, inputs: bool = False
) -> list[Point]:
    """Return the points that are asked for, each once, in the model's order.

    A choice is a layer in any spelling, of which the output is meant, or with `inputs` the input;
    with `:input`, `:output` or `:attention` after it, that side.

    Raises `BadArgument` for no layer, and for what only a layer inside the model has; what
    `LayerIndex.expand` raises for an unknown one.
    """
    choices = [layers] if isinstance(layers, str | int) else list(layers)
    if not choices:
        raise BadArgument("layers", layers, "one layer at least")
    known = model.layers.list_layers()
    found = set()
    for choice in choices:
        name, side = _parted(choice, known)
        if name == "":
            raise BadArgument(
                "layer", choice, "the name of a layer; 'output' is what the model returns"
            )
        for layer in model.layers.index.expand([name]):
            point = Point(layer.name, side or ("input" if inputs else "output"))
            if layer.module is model.layers.index.module and point.side != "output":
                raise BadArgument(
                    "layer",
                    choice,
                    "a layer inside the model: of the whole one only the output is"
                    " kept, and the token ids are kept of every row",
                )
            found.add(point)
    place = {name: at for at, name in enumerate(known)}
    return sorted(
        found, key=lambda p: (place.get(p.layer, len(known)), p.layer, SIDES.index(p.side))
    )


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
        suffix = "" if point.side == "output" else f":{point.side}"
        found |= {f"{other}{suffix}": point.name for other in others}
        if point.side == "output":
            found |= {f"{other}:output": point.name for other in (point.layer, *others)}
    return found


def _parted(choice: str | int, known: Sequence[str]) -> tuple[str | int, Side | None]:
    if isinstance(choice, int) or choice in known:
        return choice, None
    name, colon, side = choice.rpartition(":")
    if not colon:
        return choice, None
    if side not in SIDES:
        raise BadArgument("layer", choice, f"a layer, or one with :{', :'.join(SIDES)} after it")
    return name, side
