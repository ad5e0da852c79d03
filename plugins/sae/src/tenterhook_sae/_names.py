"""`tenterhook sae names` and `sae search`: what latents stand for, and which a text activates."""

import json
from pathlib import Path

import click

from tenterhook.one_line import printable


@click.command()
@click.argument("folder", metavar="SAE")
@click.option("--set", "given", multiple=True, metavar="LATENT=NAME", help="Name a latent.")
@click.option("--read", "source", type=click.Path(dir_okay=False), help="Take names from a file.")
@click.option("--write", "target", type=click.Path(dir_okay=False), help="Write names to a file.")
@click.option("--search", "wanted", metavar="TEXT", help="Names with this in them alone.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def names(
    folder: str,
    given: tuple[str, ...],
    source: str | None,
    target: str | None,
    wanted: str | None,
    as_json: bool,
) -> None:
    """Show the names of the latents of the SAE in the folder SAE; give, share and find them.

    A file of names is JSON, {"17": "question"}: --write makes one, and --read adds what it holds to
    the names of another SAE, or of the same one somewhere else. --set 17= takes a name away.
    """
    from tenterhook_sae.files import load_sae, save_names
    from tenterhook_sae.names import read_names, write_names

    sae = load_sae(folder)
    for number, name in ({} if source is None else read_names(source)).items():
        sae.concepts.name(number, name)
    for each in given:
        latent, equals, name = each.partition("=")
        if not equals:
            raise click.BadParameter(f"{each!r} is not LATENT=NAME.", param_hint="'--set'")
        number = sae.concepts.number(int(latent) if latent.strip().isdecimal() else latent)
        sae.concepts.name(number, name or None)
    if source is not None or given:
        save_names(sae, folder)
    found = sae.concepts.names
    if wanted is not None:
        found = {n: name for n, name in found.items() if wanted.casefold() in name.casefold()}
    if target is not None:
        if Path(target).exists():
            raise click.BadParameter(
                f"{target} is there already; give another name. Nothing was overwritten.",
                param_hint="'--write'",
            )
        write_names(found, target)
    if as_json:
        click.echo(json.dumps({str(n): name for n, name in found.items()}, indent=2))
        return
    for number, name in found.items():
        click.echo(f"{number:>8}  {printable(name)}")
    if not found:
        said = "No latent has a name" if wanted is None else f"No name has {wanted!r} in it"
        click.echo(f"{said}.", err=True)


@click.command()
@click.argument("model")
@click.argument("folder", metavar="SAE")
@click.argument("text")
@click.option("--layer", help="The layer; the one it was trained on by default.")
@click.option("--top-k", type=click.IntRange(1), default=10, show_default=True)
@click.option("--device", help="Where the model and the SAE run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def search(
    model: str,
    folder: str,
    text: str,
    layer: str | None,
    top_k: int,
    device: str | None,
    as_json: bool,
) -> None:
    """Show the latents of the SAE in the folder SAE that TEXT activates most in MODEL.

    A line for each: its number, its highest activation, the token where that is, and its name.
    """
    import attrs

    from tenterhook_capture.loading import load_model
    from tenterhook_sae.examples import layer_of
    from tenterhook_sae.files import load_sae
    from tenterhook_sae.search import search_latents

    found = load_sae(folder, device=device or "cpu")
    layer_of(found, layer)  # which raises before a model is loaded
    loaded = load_model(model, device=device)
    latents = search_latents(found, loaded, text, layer=layer, top_k=top_k)
    if as_json:
        click.echo(json.dumps({"latents": [attrs.asdict(each) for each in latents]}, indent=2))
        return
    for each in latents:
        name = printable(each.name or "")
        click.echo(f"{each.latent:>8} {each.score:>9.3f}  {each.token!r:<14} {name}".rstrip())
    if not latents:
        click.echo("No latent is active in it.", err=True)
