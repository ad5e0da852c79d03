"""Looking again and again: lines that are replaced on a terminal, and printed when they change."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence

from tenterhook_cli.terminal import echo, escaped

Show = Callable[[Sequence[str]], None]


def watch(look: Callable[[], tuple[Sequence[str], bool]], seconds: float) -> None:
    """Show what `look` returns, every so many seconds, until it says that it is over.

    It returns lines, and whether they are the last.
    """
    with _showing() as show:
        while True:
            lines, is_over = look()
            show(lines)
            if is_over:
                return
            time.sleep(seconds)


@contextlib.contextmanager
def _showing() -> Iterator[Show]:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    console = Console()
    if not console.is_terminal:
        yield _Changes()
        return
    with Live(console=console, auto_refresh=False) as live:
        yield lambda lines: live.update(Text("\n".join(map(escaped, lines))), refresh=True)


class _Changes:
    """Prints lines where one of them is new, for logs and other programs.

    Lines that are indented are details, as how long ago something was: they are no news.
    """

    def __init__(self) -> None:
        self._before: Sequence[str] = ()

    def __call__(self, lines: Sequence[str]) -> None:
        news = [line for line in lines if not line.startswith(" ")]
        if news != self._before:
            echo(*lines)
        self._before = news
