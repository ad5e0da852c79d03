"""The command line with our plugins installed, each command in a process of its own."""

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "transformers", "zarr", "datasets", "numpy", "pandas", "tokenizers", "pyarrow"}


def tenterhook(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command."""
    command = [sys.executable, "-m", "tenterhook", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["plugins", "list"],
        ["plugins", "info", "tiny"],
        ["layers", "--help"],
        ["capture", "--help"],
        ["runs", "--help"],
    ],
    ids=" ".join,
)
def test_help_and_lists_import_nothing_heavy(arguments: list[str]) -> None:
    """Not even when all our plugins are loaded."""
    code = f"""
import sys
from tenterhook_cli import main
try:
    main({arguments!r})
except SystemExit as stop:
    assert not stop.code
print(*{{name.partition(".")[0] for name in sys.modules}}, file=sys.stderr)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert HEAVY.isdisjoint(done.stderr.split())


def test_a_list_imports_what_plugins_declare_alone() -> None:
    """Packages of ours are found without what their names need, so that a list comes at once."""
    code = """
import sys
from tenterhook_cli import main
try:
    main(["plugins", "list"])
except SystemExit as stop:
    assert not stop.code
print(*{name.partition(".")[0] for name in sys.modules}, file=sys.stderr)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)

    assert done.returncode == 0, done.stderr
    assert {"cattrs", "safetensors", "fsspec"}.isdisjoint(done.stderr.split())


def test_layers_are_listed_with_types_and_shapes() -> None:
    """In the order and by the names of PyTorch."""
    done = tenterhook("layers", "tiny:")

    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.split() for line in done.stdout.splitlines()]
    assert ["transformer.h.0.mlp", "GPT2MLP"] in lines
    assert ["transformer.h.0.mlp.c_fc", "Conv1D"] in [line[:2] for line in lines]


def test_names_of_another_library() -> None:
    """What TransformerLens and nnterp call the places, and an error for others."""
    rows = json.loads(tenterhook("layers", "tiny:", "--as", "transformer-lens", "--json").stdout)
    assert {"name": "blocks.3.attn.hook_z", "here": "z.3"} in rows
    assert {"name": "blocks.3.attn.hook_q", "here": "q_pre.3"} in rows
    # Its positions are learned, so nothing is turned.
    assert not any("rot_q" in row["name"] for row in rows)
    done = tenterhook("layers", "tiny:", "--as", "nnsight")
    assert done.returncode == 2
    assert "only those of 'transformer-lens', 'nnterp'" in " ".join(done.stderr.split())


def test_names_of_a_model() -> None:
    """Layers, points, and why a name is not offered."""
    rows = json.loads(tenterhook("layers", "tiny:", "--names", "--json").stdout)

    named = {row["name"]: row for row in rows}
    assert named["attn_out.1"]["layer"] == "transformer.h.1.attn"
    assert named["z.3"] == {"name": "z.3", "layer": None, "refused": None}
    assert named["experts.0"]["refused"] == "The block has no experts."


def test_layers_as_json() -> None:
    """The same, for programs."""
    rows = json.loads(tenterhook("layers", "tiny:", "--json").stdout)

    named = {row["name"]: row for row in rows}
    d_model = named["transformer.ln_f"]["weights"]["weight"][0]
    assert named["transformer.h.0.mlp.c_fc"] == {
        "name": "transformer.h.0.mlp.c_fc",
        "type": "Conv1D",
        "weights": {"weight": [d_model, 4 * d_model], "bias": [4 * d_model]},
    }


@pytest.mark.parametrize("model", ["no/such-model", "./not-here", "tinny:", "tiny:nothing", ""])
def test_a_model_that_is_not_there_is_bad_input(model: str) -> None:
    """One line, exit code 2, nothing on stdout."""
    done = tenterhook("layers", model)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
