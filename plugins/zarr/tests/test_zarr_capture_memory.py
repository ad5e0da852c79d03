"""The memory of a capture does not grow with the data."""

import subprocess
import sys
from pathlib import Path

import pytest

CAPTURE = """
import json, resource, sys
import torch
from tenterhook_capture import save_activations
from tenterhook_capture.documents import read_documents
from tenterhook_store import LocalStore
from tenterhook_capture.testing.text_models import WordModel

torch.set_num_threads(1)
units, writing, folder = int(sys.argv[1]), sys.argv[2], sys.argv[3]
texts = [" ".join(f"w{(at + i) % 9}" for i in range(16)) for at in range(units * 64)]
if writing == "file":  # of texts that are 200 times as long
    path, writing = f"{folder}.jsonl", "inline"
    with open(path, "w") as file:
        for text in texts:
            print(json.dumps({"text": text + " " + "x" * 20000}), file=file)
    texts = read_documents(path)
save_activations(
    WordModel(width=128), ["blocks.0", "blocks.1"], texts, LocalStore(folder),
    batch_size=64, rows_per_unit=1024, writing=writing, queue_bytes=4 << 20,
)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is Linux's")
@pytest.mark.matrix(sample=1)
@pytest.mark.parametrize("writing", ["inline", "thread", "file"])
def test_memory_is_that_of_a_tenth_of_the_data(tmp_path: Path, writing: str) -> None:
    """Ten times the data, within 5 % of the peak.

    Kept in memory, its rows would be 40 MB; the texts of a file, which are cut, 50 MB.
    """

    def start(units: int) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", CAPTURE, str(units), writing, str(tmp_path / str(units))]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    small, large = start(4), start(40)
    peaks = []
    for process in (small, large):
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0
        peaks.append(int(out))
    assert peaks[1] < 1.05 * peaks[0]
