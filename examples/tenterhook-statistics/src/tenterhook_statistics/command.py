"""`tenterhook statistics`: the detector, from the command line."""

import json

import click

QUANTILES = (0.01, 0.5, 0.99)


@click.command()
@click.argument("model")
@click.option("--layer", required=True, help="A layer, as `tenterhook layers MODEL` has it.")
@click.option("--data", required=True, help="A text file, JSON lines, or a name: tiny:sample.")
@click.option("--sample-limit", type=click.IntRange(min=1), help="Take so many documents.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def statistics(model: str, layer: str, data: str, sample_limit: int | None, as_json: bool) -> None:
    """Show mean, deviation and quantiles of what LAYER of MODEL returns, for each feature."""
    from tenterhook.documents import read_documents
    from tenterhook.loading import load_model  # imports torch
    from tenterhook_statistics.detector import StatisticsDetector

    documents = read_documents(data).first(sample_limit)
    loaded = load_model(model)
    detector = StatisticsDetector(layer)
    loaded.layers.register_hook(layer, detector)
    for ids in loaded.token_ids(documents.texts):
        if ids:  # alone, so that no padding is counted
            loaded.run_token_ids([ids[: loaded.max_tokens]])
    if detector.mean is None:
        raise click.ClickException(f"the documents of {data} have no token")
    columns = [detector.mean, detector.variance().sqrt(), *detector.quantiles(QUANTILES)]
    names = ["mean", "deviation", *(f"q{q:g}" for q in QUANTILES)]
    rows = [
        {
            "feature": at,
            **{name: column[at].item() for name, column in zip(names, columns, strict=True)},
        }
        for at in range(len(columns[0]))
    ]
    if as_json:
        click.echo(json.dumps({"tokens": detector.count, "features": rows}, indent=2))
        return
    click.echo(f"{detector.count} tokens at {detector.layer_signature}")
    click.echo("  ".join(["feature", *(name.rjust(10) for name in names)]))
    for row in rows:
        click.echo("  ".join([f"{row['feature']:>7}", *(f"{row[name]:>10.4g}" for name in names)]))
