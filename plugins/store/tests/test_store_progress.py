"""Progress: in a terminal, on a pipe, in a notebook, and told to a callback."""

import threading

import pytest

from tenterhook_store import progress
from tenterhook_store.progress import how_long, lines, showing, shown_elsewhere
from tenterhook_store.testing.terminal import terminal


def test_a_terminal_shows_what_is_done_and_how_far() -> None:
    """A bar, the share, and the numbers; names in it are as they are, whatever is in them."""
    with terminal() as shown, showing("Reading [red]a\x1b[2Jb", 2000) as work:
        work(1500)
        work(500)

    (text,) = shown
    assert "Reading [red]a\\x1b[2Jb: 2,000 of 2,000 rows" in text
    assert "100%" in text


def test_how_long_it_will_take() -> None:
    """As long as before, of what is new in this process; nobody knows before a first step."""
    with showing("Reading", 100) as work:
        assert work.seconds_left is None
        work.reach(50)
        assert work.seconds_left is None
        work.reach(75)
        assert work.seconds_left == pytest.approx(0, abs=60)
        assert "75 of 100 rows, " in work.text
    assert [how_long(each) for each in (0, 0.2, 60, 600, 7200, 864000)] == [
        *("0 s", "1 s", "60 s", "10 min", "2.0 h", "10 days")
    ]


def test_a_part_of_other_work_shows_nothing() -> None:
    """One bar at a time."""
    with terminal() as shown:
        with showing("All", 2) as work:
            with showing("Inner", 5) as inner:
                inner(5)
            work(2)
        with shown_elsewhere(), showing("Other", 5) as work:
            work(5)

    assert "All: 2 of 2 rows" in shown[0]
    assert "Inner" not in shown[0]
    assert "Other" not in shown[0]


def test_short_work_shows_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has ended before anybody looked; no thread is left."""
    with terminal() as shown:
        monkeypatch.setattr(progress, "SECONDS", 3600.0)
        before = threading.active_count()
        with showing("Reading", 2) as work:
            work(2)
        assert threading.active_count() == before

    assert shown == [""]


def test_work_is_shown_whose_first_step_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not count anything for that."""
    began = threading.Event()
    show = progress._Terminal.show

    def told(display: progress._Terminal, work: progress.Work) -> None:
        show(display, work)
        began.set()

    monkeypatch.setattr(progress._Terminal, "show", told)
    with terminal() as shown:
        monkeypatch.setattr(progress, "SECONDS", 0.001)
        with showing("Loading", 2, "models"):
            assert began.wait(60)

    assert "Loading: 0 of 2 models" in shown[0]


def test_it_can_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a variable of the environment."""
    with terminal() as shown:
        monkeypatch.setenv("TENTERHOOK_PROGRESS", "off")
        with showing("Reading", 2) as work:
            work(2)

    assert shown == [""]


def test_a_callback_is_called_and_nothing_shown() -> None:
    """With what is done, and of how much."""
    told = []
    with terminal() as shown, showing("Reading", 5, progress=lambda *now: told.append(now)) as work:
        work(2)
        work(3)

    assert told == [(2, 5), (5, 5)]
    assert shown == [""]


def test_a_pipe_has_lines_where_they_are_wanted(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One now and then, for commands; nothing without."""
    monkeypatch.setattr(progress, "SECONDS", 0.0)
    monkeypatch.setattr(progress._Lines, "seconds", 0.0)
    printed: list[str] = []
    with showing("Reading", 3) as work:
        work(3)
    with lines(printed.append), showing("Again", 3) as work:
        work(1)
        work(2)
    monkeypatch.setattr(progress._Lines, "seconds", 3600.0)
    with lines(printed.append), showing("Short", 3) as work:
        work(3)

    assert [each.partition(",")[0] for each in printed] == [
        "Again: 1 of 3 rows",
        "Again: 3 of 3 rows",
    ]
    assert capfd.readouterr() == ("", "")


def test_an_error_ends_the_bar() -> None:
    """The next one can be shown."""
    with terminal() as shown:
        with pytest.raises(KeyError), showing("First", 2):
            raise KeyError
        with showing("Second", 2) as work:
            work(2)

    assert "Second: 2 of 2 rows" in shown[0]


def test_a_notebook_has_a_bar_below_the_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the same one again and again, and no widget."""
    shells = pytest.importorskip("IPython.core.interactiveshell")
    shell = shells.InteractiveShell.instance()
    monkeypatch.setattr(shell, "kernel", object(), raising=False)
    published: list[tuple[dict[str, str], bool]] = []
    monkeypatch.setattr(
        shell.display_pub,
        "publish",
        lambda data, update=False, **_: published.append((data, update)),
    )
    with terminal() as shown, showing("Reading <b>", 3) as work:
        work(3)
    shells.InteractiveShell.clear_instance()

    assert [is_update for _, is_update in published] == [False, True]
    assert published[-1][0]["text/plain"] == "Reading <b>: 3 of 3 rows"
    assert "<progress value=3 max=3></progress> Reading &lt;b&gt;" in published[-1][0]["text/html"]
    assert shown == [""]
