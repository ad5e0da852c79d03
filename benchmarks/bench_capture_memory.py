"""How does the peak memory of a capture grow with the data?

Two layers of `tiny:` over 1 and 10 times the documents, in a file of JSON lines, each in a process
of its own, into a store on the local disk; peak resident memory as the system counts it, imports
and model included. Written inline, by a thread, with documents sorted by length, and reduced.
"""

import subprocess
import sys
import tempfile
from typing import Any

WAYS: dict[str, dict[str, Any]] = {
    "inline": {"writing": "inline"},
    "thread": {"writing": "thread", "queue_bytes": 16 << 20},
    "bucket": {"bucket": True, "batch_tokens": 2048},
    "reduce": {"reduce": "mean,cov,quantiles,topk"},
}


def capture(documents: int, way: str, folder: str) -> None:
    """Capture, and print the peak in bytes."""
    import json
    import resource
    from pathlib import Path

    import torch

    import tenterhook_tiny
    from tenterhook_capture import save_activations
    from tenterhook_capture.documents import read_documents
    from tenterhook_store import LocalStore

    torch.set_num_threads(1)
    model = tenterhook_tiny.load("")
    sample = [text[:160] for text in tenterhook_tiny.read("sample").texts]
    data = Path(folder, "texts.jsonl")
    with data.open("w") as file:
        for at in range(documents):
            file.write(json.dumps({"text": sample[at % len(sample)]}) + "\n")
    texts, store = read_documents(str(data)), LocalStore(Path(folder, "store"))
    layers = model.layers.index.blocks()[:2]
    save_activations(model, layers, texts, store, batch_size=8, rows_per_unit=2048, **WAYS[way])
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def peak(documents: int, way: str) -> int:
    """Return the peak of a capture in another process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--capture", str(documents), way, folder]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def main(documents: int, ways: list[str]) -> None:
    print(f"{'way':<10}{'documents':>10}{'peak MB':>10}  ratio")
    for way in ways:
        first = peak(documents, way)
        for times in (1, 10):
            found = first if times == 1 else peak(documents * times, way)
            print(f"{way:<10}{documents * times:>10}{found / 1e6:>10.1f}  {found / first:.3f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--capture"]:
        capture(int(sys.argv[2]), sys.argv[3], sys.argv[4])
    elif "--quick" in sys.argv:
        main(2, ["inline"])
    else:
        main(100, list(WAYS))
