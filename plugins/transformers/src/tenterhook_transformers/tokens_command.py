"""`tenterhook tokens`: how a model's tokenizer cuts a text."""

import json
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tenterhook_capture.text_model import TextModel


@click.command()
@click.argument("model")
@click.argument("text")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tokens(model: str, text: str, as_json: bool) -> None:
    """Show the tokens that MODEL makes of TEXT: position, id, text.

    Positions are those that a selection takes, `model.capture(layer, tokens=3)`; the first token
    may be one that the tokenizer begins every text with.
    """
    from tenterhook_capture.loading import load_model  # imports torch

    loaded = load_model(model)
    (ids,) = loaded.token_ids([text])
    texts = [_text_of(loaded, id) for id in ids]
    if as_json:
        rows = [
            {"position": position, "id": id, "text": each}
            for position, (id, each) in enumerate(zip(ids, texts, strict=True))
        ]
        click.echo(json.dumps(rows, indent=2))
        return
    for position, (id, each) in enumerate(zip(ids, texts, strict=True)):
        click.echo(f"{position:>5}  {id:>7}  {each!r}".rstrip())


def _text_of(model: "TextModel", id: int) -> str | None:
    """Return the text of one token, `None` for a model without a tokenizer that decodes."""
    decode: Any = getattr(model.context.tokenizer, "decode", None)
    return None if decode is None else str(decode([id]))
