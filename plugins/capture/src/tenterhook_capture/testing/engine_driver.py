"""A process that has an engine do a small capture, for `EngineContract` to stop.

`python -m tenterhook_capture.testing.engine_driver FILE`, where FILE holds a pickled engine and a
`SmallCapture`.
"""

import pickle
import signal
import sys
from pathlib import Path

from tenterhook_capture.testing.engine_workers import SmallCapture


def main(file: str) -> int:
    """Do the capture; print how to resume where it is interrupted."""
    # Whoever runs tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    engine, capture = pickle.loads(Path(file).read_bytes())
    assert isinstance(capture, SmallCapture)
    try:
        capture.save(engine)
    except KeyboardInterrupt as error:
        print(*getattr(error, "__notes__", ()), sep="\n")  # noqa: T201 - it is read
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
