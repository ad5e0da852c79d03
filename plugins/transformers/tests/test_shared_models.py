"""Models that two processes hold among them: hooks, runs and what a model is, as of a whole one."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROCESS = Path(__file__).with_name("shared_model_process.py")


@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("kind", ["tp_plan", "fully_shard", "parallelize_module", "pipeline"])
def test_two_processes(
    kind: str, tmp_path: Path, make_model: Callable[..., Any], tokenizer: Any
) -> None:
    """Both see and change what one would, and make one run, which one of them writes."""
    make_model("llama").save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    processes = [
        subprocess.Popen(
            [sys.executable, PROCESS, kind, str(rank), tmp_path],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(said)
    for rank in range(2):
        found = json.loads(tmp_path.joinpath(f"found-{rank}.json").read_text())
        part = found.pop("part", None)
        if kind == "tp_plan":
            assert part.startswith(
                "Layer 'model.layers.1.mlp.act_fn' gives each of the 2 processes that hold the "
                "model a part of its own (24 features here)"
            )
        assert [name for name, is_so in found.items() if not is_so] == []
        assert len(found) >= 5
