"""The code of README and of the pages under docs/ runs, and their links lead somewhere.

The blocks of a page run in order, in one namespace and one empty folder:

- `python` blocks are executed; a `text` block right after one is what it prints;
- `console` blocks are commands after `$ `, each followed by what it prints on stdout, if shown.

In what is printed, `...` stands for anything. A block under `<!-- not run: why -->` is not run.
"""

import contextlib
import doctest
import io
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))  # the processes import it by its name
from forked_commands import run_command

ROOT = Path(__file__).parents[1]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *sorted(ROOT.glob("plugins/*/README.md")),
]
FENCE = re.compile(
    r"^(?P<skip><!-- not run: [^\n]+ -->\n+)?^```(?P<language>\w*)[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\]\((?!\w+:)(?P<path>[^)#\s]*)(?:#(?P<anchor>[^)\s]*))?\)")

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@attrs.frozen
class Block:
    """A fenced block that is run, or compared with what the one before it printed."""

    language: str
    code: str
    line: int


def blocks_of(page: Path) -> Iterator[Block]:
    """Find the blocks of a page that are not marked as not run."""
    text = page.read_text()
    for fence in FENCE.finditer(text):
        line = text.count("\n", 0, fence.start("code"))
        if fence["skip"]:
            yield Block("", "", line)
        else:
            yield Block(fence["language"], fence["code"], line)


@pytest.mark.timeout(900)  # a page may train something, and others may be at work
@each_page
def test_code(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every block does what the page says."""
    monkeypatch.chdir(tmp_path)
    scripts = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{scripts}{os.pathsep}{os.environ['PATH']}")
    namespace: dict[str, Any] = {"__name__": "__main__"}
    printed: str | None = None
    assert torch.is_grad_enabled()
    for block in blocks_of(page):
        place = f"{page.relative_to(ROOT)}:{block.line + 1}"
        if block.language == "python":
            printed = run_python(block, page, namespace)
            continue
        if block.language == "text" and printed is not None:
            expect(block.code, printed, place)
        if block.language == "console":
            run_console(block.code, place)
        printed = None
    assert torch.is_grad_enabled(), "What a page sets for the process stays for the next tests."


def test_the_tutorials_plugin_passes_its_tests(tmp_path: Path) -> None:
    """Its detector and test, put where the tutorial says; ruff has nothing to add."""
    page = (ROOT / "docs/tutorial/write-a-plugin.md").read_text()
    blocks = [fence["code"] for fence in FENCE.finditer(page) if fence["language"] == "python"]
    detector = blocks[0].partition("\n\n\nmodel = ")[0].replace("import tenterhook\n", "") + "\n"
    (test,) = (block for block in blocks if block.startswith("def test_"))
    new = ("tenterhook", "plugins", "new", "dead-features", "--kind", "detector")
    subprocess.run([sys.executable, "-m", *new], cwd=tmp_path, check=True, capture_output=True)
    folder = tmp_path / "dead-features"
    folder.joinpath("src/dead_features/detector.py").write_text(detector)
    for file in folder.rglob("*.py"):
        text = file.read_text().replace("DeadFeaturesDetector", "DeadFeatures")
        if file.name == "test_dead_features.py":
            text = text.partition("def test_")[0] + test
        file.write_text(text)
    path = os.pathsep.join([str(folder / "src"), os.environ.get("PYTHONPATH", "")])

    for tool in (
        ("pytest", "-q", "-p", "no:cacheprovider"),
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
    ):
        done = subprocess.run(
            [sys.executable, "-m", *tool],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_store_of_the_page_passes_its_contract(tmp_path: Path) -> None:
    """`StoreContract` finds nothing wrong with the store that authors of stores are shown."""
    page = (ROOT / "docs/how-to/write-a-store.md").read_text()
    blocks = [fence["code"] for fence in FENCE.finditer(page) if fence["language"] == "python"]
    (first,) = (at for at, block in enumerate(blocks) if block.startswith('"""A store in one'))
    (last,) = (at for at, block in enumerate(blocks) if block.startswith("class SqliteStore:"))
    (test,) = (block for block in blocks if "class TestSqliteStore" in block)
    file = tmp_path / "test_sqlite_store.py"
    file.write_text("\n\n".join([*blocks[first : last + 1], test]))

    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(file)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_tasks_of_the_first_hour_are_short() -> None:
    """Each of the eight takes at most twelve lines of Python."""
    _, *tasks = (ROOT / "docs/tutorial/first-hour.md").read_text().split("\n## ")
    counts = [
        sum(bool(line.strip()) for block in FENCE.finditer(task) for line in code_lines(block))
        for task in tasks
    ]

    assert len(counts) == 8
    assert max(counts) <= 12


def code_lines(block: re.Match[str]) -> list[str]:
    """Return the lines of a block of Python, none of another."""
    return block["code"].splitlines() if block["language"] == "python" else []


def test_authors_find_each_kind_of_plugin() -> None:
    """The list for authors has the page of every plugin hook."""
    index = (ROOT / "docs/README.md").read_text()
    pages = {page.name for page in ROOT.glob("docs/reference/plugin-hooks/*.md")}
    linked = set(re.findall(r"\(reference/plugin-hooks/(\w+\.md)\)", index))
    assert linked == pages


def test_the_tests_that_hold_what_is_fragile_are_there() -> None:
    """Each file of tests that the page names is one of the repository's."""
    page = (ROOT / "docs/explanation/fragile.md").read_text()
    named = set(re.findall(r"`(?:[\w/-]+/)?(test_\w+\.py)`", page))
    there = {file.name for file in ROOT.glob("**/tests/test_*.py")}
    assert named
    assert named <= there, f"fragile.md names {sorted(named - there)}"


def run_python(block: Block, page: Path, namespace: dict[str, Any]) -> str:
    """Execute the block, with the page's own line numbers, and return what it prints."""
    code = compile("\n" * block.line + block.code, page, "exec")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(code, namespace)
    return out.getvalue()


def run_console(text: str, place: str) -> None:
    """Run the commands of a block; each must succeed and print what is shown under it."""
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, shown = part.replace("\\\n", "").partition("\n")
        done = run_line(command)
        assert done.returncode == 0, f"{place}: {command}\n{done.stdout}{done.stderr}"
        if shown.strip():
            expect(shown, done.stdout, f"{place}: {command}")


def run_line(line: str) -> subprocess.CompletedProcess[str]:
    """Run a line as a shell does."""
    words = shlex.split(line)
    if words[0] == "tenterhook" and not re.search(r"[&|;<>$*`]", line.replace("'", "")):
        return run_command(words[1:])
    return subprocess.run(line, shell=True, capture_output=True, text=True)


def expect(shown: str, printed: str, place: str) -> None:
    """Compare what a page shows with what was printed; runs of blanks are alike."""
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(shown, printed, flags), (
        f"{place} shows\n{shown}\nand what was printed is\n{printed}"
    )


@each_page
def test_links(page: Path) -> None:
    """Links inside the repository point to files, and to headings, that exist."""
    for link in LINK.finditer(re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S)):
        target = page.parent / link["path"] if link["path"] else page
        assert target.exists(), f"{page.relative_to(ROOT)} links to {link['path']}"
        if link["anchor"]:
            assert link["anchor"] in anchors_of(target), (
                f"{page.relative_to(ROOT)} links to #{link['anchor']}"
            )


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), flags=re.MULTILINE)
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }
