"""`tenterhook view` and `tenterhook plot`: a run as a page, in a terminal, and as a picture."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tenterhook_store import Run
    from tenterhook_view.quantities import Quantity

_FILE = click.Path(dir_okay=False)

_OPTIONS = (
    click.argument("store"),
    click.argument("run", required=False),
    click.option("--layer", "layers", multiple=True, help="A layer; repeat it. All by default."),
    click.option("--direction", type=_FILE, help="A vector, .safetensors or .npy."),
    click.option("--sae", type=click.Path(), help="A sparse autoencoder, a folder."),
    click.option("--probe", type=_FILE, help="A linear probe, .safetensors."),
    click.option(
        "--latent", "latents", type=click.IntRange(0), multiple=True, help="Of the SAE; repeat it."
    ),
    click.option("--by", default="norm", show_default=True, help="norm, feature:N, or surprise."),
    click.option(
        "--document",
        "documents",
        type=click.IntRange(0),
        multiple=True,
        help="A document, by its number; repeat it.",
    ),
    click.option(
        "--tokens",
        "most",
        type=click.IntRange(1),
        default=10_000,
        show_default=True,
        help="Tokens at most.",
    ),
)


def _of_run(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command()
@_of_run
@click.option("--out", type=_FILE, help="The page to write.")
@click.option("--terminal", is_flag=True, help="Colour the tokens here, and write no page.")
@click.option("--lens", is_flag=True, help="Add the logit lens of the first document.")
@click.option("--attention", is_flag=True, help="Add its attention, a head at a time.")
@click.option(
    "--steer",
    type=_FILE,
    help="Add a text without and with this vector at --layer.",
)
@click.option("--scale", type=float, default=4.0, show_default=True, help="Of --steer: how much.")
@click.option("--prompt", help="Of --steer: what the text begins with; the first document's words.")
def view(
    store: str,
    run: str | None,
    out: str | None,
    terminal: bool,
    lens: bool,
    attention: bool,
    steer: str | None,
    scale: float,
    prompt: str | None,
    **options: Any,
) -> None:
    """Show the tokens of RUN in STORE, coloured by what its layers hold.

    The page is one file that fetches nothing: tokens by norm, direction, probe or latent, the
    highest examples, layers by tokens, and the numbers of each layer. --lens, --attention and
    --steer load the run's model. STORE RUN may be one path, STORE/runs/RUN; where the store holds
    one run, RUN may be left out.
    """
    if terminal == (out is not None):
        raise click.UsageError("Give --out PAGE for a page, or --terminal.")
    if terminal and (lens or attention or steer is not None):
        raise click.UsageError("--lens, --attention and --steer are parts of a page: give --out.")
    if steer is not None and len(options["layers"]) != 1:
        raise click.UsageError("--steer adds a vector to one layer: give --layer once.")
    opened, settings = _read(store, run, **options)
    if out is None:
        from tenterhook_view.terminal_text import print_tokens

        print_tokens(opened, **settings)
        return
    from tenterhook_view.vectors import read_vector
    from tenterhook_view.whole_page import page

    if (
        prompt is not None
        and not prompt.isascii()
        and prompt != prompt.encode("utf-8", "ignore").decode()
    ):
        raise click.UsageError("--prompt has half of a letter in it: give text in UTF-8.")
    vector = None if steer is None else read_vector(steer, layer=options["layers"][0])
    page(
        opened,
        out=out,
        lens=lens,
        attention=attention,
        steer=vector,
        scale=scale,
        prompt=prompt,
        **settings,
    )
    click.echo(f"Wrote {out}.", err=True)


@click.command()
@_of_run
@click.option("--out", type=_FILE, required=True, help="The picture to write: .svg, .png or .pdf.")
@click.option(
    "--what",
    type=click.Choice(["layers", "histogram", "tokens"]),
    default="layers",
    show_default=True,
    help="Quantiles by layer, how numbers are spread, or layers by the first tokens.",
)
def plot(store: str, run: str | None, out: str, what: str, **options: Any) -> None:
    """Draw a picture of RUN in STORE: a number for each token and layer, SVG or PNG.

    matplotlib draws it: pip install 'tenterhook-view[plot]'. STORE RUN may be one path,
    STORE/runs/RUN; where the store holds one run, RUN may be left out.
    """
    from tenterhook_view.pictures import save_picture

    opened, settings = _read(store, run, **options)
    save_picture(opened, out, what=what, **settings)
    click.echo(f"Wrote {out}.", err=True)


def _read(
    store: str,
    run: str | None,
    *,
    layers: tuple[str, ...],
    direction: str | None,
    sae: str | None,
    probe: str | None,
    latents: tuple[int, ...],
    by: str,
    documents: tuple[int, ...],
    most: int,
) -> "tuple[Run, dict[str, Any]]":
    """Open a run, and return the settings that the options stand for."""
    if sum(each is not None for each in (direction, sae, probe)) > 1:
        raise click.UsageError("--direction, --sae and --probe: give one of them.")
    if latents and sae is None:
        raise click.UsageError("--latent is of an SAE: give --sae as well.")
    from tenterhook_store import find_run

    found, run_id = find_run(store, run)
    return found.run(run_id), {
        "layer": list(layers) or None,
        "by": by,
        "direction": _vector(direction, probe, layers),
        "sae": None if sae is None else _sae(sae),
        "latents": list(latents) or None,
        "documents": list(documents) or None,
        "most": most,
    }


def _vector(direction: str | None, probe: str | None, layers: tuple[str, ...]) -> "Quantity | None":
    from tenterhook_view.vectors import read_direction, read_probe

    if direction is not None:
        return read_direction(direction, layer=layers[0] if layers else None)
    return None if probe is None else read_probe(probe)


def _sae(folder: str) -> Any:
    try:
        from tenterhook_sae import load_sae
    except ImportError as error:
        error.add_note("pip install 'tenterhook-view[sae]'")
        raise
    return load_sae(folder)
