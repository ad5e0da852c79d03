"""`tenterhook lens`, `patch` and `steer`: analyses in a terminal, side by side, and as pages."""

import json
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tenterhook_transformers import LanguageModel

_CONTROL = ("Cc", "Cf", "Cs", "Zl", "Zp")
_layers = click.option("--layer", "layers", multiple=True, help="A layer; repeat it. All blocks.")
_device = click.option("--device", help="Where the model runs.")
_out = click.option("--out", type=click.Path(dir_okay=False), help="Write a page, of plugin view.")
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> list[float]:
    """Read numbers with commas between them."""
    try:
        return [float(each) for each in value.split(",")]
    except ValueError:
        raise click.BadParameter(
            f"{value!r} is no list of numbers: write 0,2,4,8.", ctx, param
        ) from None


def _text(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    """Refuse texts that no tokenizer reads: halves of letters, as of bytes that are no UTF-8."""
    for text in (value,) if isinstance(value, str) else value or ():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise click.BadParameter(
                f"character {error.start} is {ascii(text[error.start])[1:-1]}, half of a letter; "
                "give text in UTF-8.",
                ctx,
                param,
            ) from None
    return value


@click.command()
@click.argument("model")
@click.argument("text", callback=_text)
@_layers
@click.option("--k", type=click.IntRange(1), default=5, show_default=True, help="Tokens kept.")
@_device
@_out
@_json
def lens(
    model: str,
    text: str,
    layers: tuple[str, ...],
    k: int,
    device: str | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Show what MODEL would say after each of its layers, at each token of TEXT.

    A row for each token, a column for each layer, with the likeliest next token.
    """
    from tenterhook_analysis.lens import logit_lens

    found = logit_lens(_loaded(model, device), text, layers or None, k=k)
    _page(out, [found], "Logit lens")
    if as_json:
        _print_json(
            {
                "layers": found.layers,
                "input_tokens": found.input_tokens,
                "tokens": found.tokens,
                "token_ids": found.token_ids.tolist(),
                "probabilities": found.probabilities.tolist(),
            }
        )
        return
    _print_table(
        ["", *found.layers],
        [
            [repr(token), *(repr(of_layer[at][0]) for of_layer in found.tokens)]
            for at, token in enumerate(found.input_tokens)
        ],
    )


@click.command()
@click.argument("model")
@click.option(
    "--clean", required=True, callback=_text, help="The prompt whose activations are put in."
)
@click.option("--corrupt", required=True, callback=_text, help="The prompt that they are put into.")
@click.option(
    "--right",
    required=True,
    callback=_text,
    help="The clean prompt's answer, a token, as ' Paris'.",
)
@click.option(
    "--wrong", required=True, callback=_text, help="The corrupt prompt's answer, a token."
)
@_layers
@_device
@_out
@_json
def patch(
    model: str,
    clean: str,
    corrupt: str,
    right: str,
    wrong: str,
    layers: tuple[str, ...],
    device: str | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Patch each layer and token of one prompt of MODEL with another prompt's activation.

    A row for each token, a column for each layer: how much of what lies between the prompts comes
    back, of the difference between the logits of the two answers.
    """
    from tenterhook_analysis.patching import patch_grid
    from tenterhook_analysis.prompts import logit_difference

    lm = _loaded(model, device)
    found = patch_grid(lm, clean, corrupt, logit_difference(lm, right, wrong), layers or None)
    _page(out, [found], "Activation patching")
    if as_json:
        _print_json(
            {
                "layers": found.layers,
                "positions": found.positions,
                "clean_tokens": found.clean_tokens,
                "corrupt_tokens": found.corrupt_tokens,
                "clean": found.clean,
                "corrupt": found.corrupt,
                "values": found.values.tolist(),
            }
        )
        return
    pairs = zip(found.clean_tokens, found.corrupt_tokens, strict=True)
    words = [repr(a) if a == b else f"{a!r} -> {b!r}" for a, b in pairs]
    shares = found.restored.T.tolist()
    _print_table(
        ["", *found.layers],
        [
            [word, *(f"{share:.2f}" for share in row)]
            for word, row in zip(words, shares, strict=True)
        ],
    )
    click.echo(f"logit difference: clean {found.clean:.3f}, corrupt {found.corrupt:.3f}")


@click.command()
@click.argument("model")
@click.option("--layer", required=True, help="The layer that the vector is added to.")
@click.option(
    "--vector", required=True, type=click.Path(dir_okay=False), help=".safetensors, .npy or .pt."
)
@click.option(
    "--scale",
    "scales",
    default="0,2,4,8",
    show_default=True,
    callback=_numbers,
    metavar="NUMBERS",
    help="Factors, with commas between them.",
)
@click.option(
    "--prompt", "prompts", multiple=True, required=True, callback=_text, help="A text; repeat it."
)
@click.option("--max-new-tokens", type=click.IntRange(1), default=30, show_default=True)
@_device
@_out
@_json
def steer(
    model: str,
    layer: str,
    vector: str,
    scales: list[float],
    prompts: tuple[str, ...],
    max_new_tokens: int,
    device: str | None,
    out: str | None,
    as_json: bool,
) -> None:
    """Go on with prompts while a vector is added to a layer of MODEL, side by side for each scale.

    Of a file with vectors of several layers that of the layer is taken.
    """
    from tenterhook_analysis.steering import steered
    from tenterhook_analysis.vectors import load_vector

    lm = _loaded(model, device)
    name = lm.layers.index.resolve(layer).name
    found = steered(
        lm, prompts, name, load_vector(vector, name), scales, max_new_tokens=max_new_tokens
    )
    if out is not None:
        _page(out, _differences(found), f"Steered at {name}")
    if as_json:
        rows = [
            {"prompt": prompt, "scale": scale, "text": text}
            for prompt, texts in zip(found.prompts, found.texts, strict=True)
            for scale, text in zip(found.scales, texts, strict=True)
        ]
        _print_json({"layer": name, "generations": rows})
        return
    for prompt, texts in zip(found.prompts, found.texts, strict=True):
        _print_beside(prompt, [f"{scale:g}" for scale in found.scales], texts)


def _loaded(model: str, device: str | None) -> "LanguageModel":
    from tenterhook_capture.loading import load_model
    from tenterhook_transformers import LanguageModel

    loaded = load_model(model, device=device)
    if not isinstance(loaded, LanguageModel):
        raise click.UsageError(f"{model!r} is no language model of transformers.")
    return loaded


def _differences(found: Any) -> list[Any]:
    """Return parts of a page: each prompt as it goes on at the first scale and at each other."""
    view = _view()
    return [
        view.diff(
            prompt + texts[0],
            prompt + text,
            names=(f"scale {found.scales[0]:g}", f"scale {scale:g}"),
            title=prompt,
        )
        for prompt, texts in zip(found.prompts, found.texts, strict=True)
        for scale, text in list(zip(found.scales, texts, strict=True))[1:] or [(0.0, texts[0])]
    ]


def _page(out: str | None, shown: Sequence[Any], title: str) -> None:
    if out is not None:
        _view().page(*shown, title=title, out=out)
        click.echo(f"Wrote {out}.", err=True)


def _view() -> Any:
    try:
        import tenterhook_view
    except ImportError:
        raise click.UsageError(
            "--out writes a page, which the plugin view makes: pip install tenterhook-view."
        ) from None
    return tenterhook_view


def _print_json(values: Any) -> None:
    click.echo(json.dumps(values, indent=2))


def _print_table(head: list[str], rows: list[list[str]]) -> None:
    """Print columns, each as wide as what stands in it."""
    lines = [[_line(cell, 24) for cell in row] for row in [head, *rows]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for row in lines:
        padded = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo("  ".join(padded).rstrip())


def _print_beside(title: str, heads: list[str], texts: Sequence[str]) -> None:
    """Print texts side by side, as wide as the terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(_line(title, 200)), title_justify="left")
    for head in heads:
        table.add_column(Text(f"scale {head}"), ratio=1, overflow="fold")
    table.add_row(*(Text(_line(text, 100_000, ends="\n")) for text in texts))
    Console(highlight=False).print(table)


def _line(text: str, longest: int, ends: str = "") -> str:
    """Return text in which nothing tells the terminal what to do, cut where it is long."""
    shown = "".join(
        each.encode("unicode_escape", "backslashreplace").decode()
        if each not in ends and unicodedata.category(each) in _CONTROL
        else each
        for each in text[:longest]
    )
    return f"{shown}…" if len(text) > longest else shown
