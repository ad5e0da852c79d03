"""How does the peak memory of planning a capture grow with the tokens?

Documents of 1,000 synthetic tokens each are tokenized, planned, shared in a store on the local disk
and read again as a worker does, by a model of 12 features; each size in a process of its own. Peak
resident memory as the system counts it, imports included. The ids go to a temporary file (`TMPDIR`)
and into the store: 4 bytes a token each, 48 a document.
"""

import subprocess
import sys
import tempfile
import time

DOCUMENT = 1000
"""Tokens of a document."""


def plan(tokens: int, folder: str) -> None:
    """Plan, share, and read the last unit; print the peak in bytes, and the seconds."""
    import resource
    from collections.abc import Sequence

    import torch

    from tenterhook_capture import CaptureOptions, prepare_capture
    from tenterhook_capture.beginning import begin
    from tenterhook_capture.documents import Documents
    from tenterhook_capture.lazy_texts import LazyTexts
    from tenterhook_capture.shared_tokens import shared_rows
    from tenterhook_capture.testing.text_models import WORDS, WordModel
    from tenterhook_store import LocalStore

    torch.set_num_threads(1)

    class Synthetic(WordModel):
        """Makes the same tokens of a number, whatever it is."""

        def token_ids(self, texts: Sequence[str]) -> list[list[int]]:
            """Return `DOCUMENT` ids that begin with the number's."""
            return [
                [1 + int(text) % (WORDS - 1), *[1 + at % (WORDS - 1) for at in range(1, DOCUMENT)]]
                for text in texts
            ]

    began = time.perf_counter()
    model = Synthetic(max_tokens=DOCUMENT)
    texts = LazyTexts(tokens // DOCUMENT, lambda start, stop: [*map(str, range(start, stop))])
    options = CaptureOptions(rows_per_unit=65_536, batch_size=8)
    capture = prepare_capture(model, "blocks.0", Documents(texts), options=options)
    store = LocalStore(folder)
    writer, _ = begin(store, capture, "run")
    found = shared_rows(store.run("run"), model)
    assert found is not None
    last = writer.plan.unit(writer.plan.unit_count - 1)
    pieces = list(found[0].pieces(last))
    assert sum(len(piece.offsets) for piece in pieces) == last.rows
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(peak, round(time.perf_counter() - began, 1))


def main(sizes: list[int]) -> None:
    print(f"{'tokens':>12}{'peak MB':>10}{'ratio':>8}{'seconds':>9}")
    first = 0
    for tokens in sizes:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--plan", str(tokens), folder]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
        peak, seconds = ran.stdout.split()
        first = first or int(peak)
        print(f"{tokens:>12,}{int(peak) / 1e6:>10.1f}{int(peak) / first:>8.3f}{seconds:>9}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--plan"]:
        plan(int(sys.argv[2]), sys.argv[3])
    elif "--quick" in sys.argv:
        main([10_000])
    elif "--whole" in sys.argv:
        main([10**7, 10**8])
    else:
        main([10**6, 10**7])
