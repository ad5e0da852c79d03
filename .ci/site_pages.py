"""Lay out the pages that the site is built from: every page of the repository, at its own place.

Links between pages are those that GitHub follows, from `docs/` to the READMEs of plugins and back,
so the pages are copied as they are, with all that they link to, and lie as they do here. Beside
them is a page for each package, `api/PACKAGE.md`, that mkdocstrings fills from the docstrings.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = (".md", ".png", ".svg")


def packages() -> list[str]:
    """Return the names of our packages, core first."""
    found = [
        *ROOT.glob("core/src/*/__init__.py"),
        *sorted(ROOT.glob("plugins/*/src/*/__init__.py")),
    ]
    return [path.parent.name for path in found]


def linked(page: Path) -> set[Path]:
    """Return the files of the repository that a page links to."""
    targets = re.findall(r"\]\(([^)#\s]+)", page.read_text())
    found = {(page.parent / each).resolve() for each in targets if "://" not in each}
    return {each for each in found if each.is_file() and each.is_relative_to(ROOT)}


def lay_out(folder: Path) -> None:
    """Write all pages below a folder, in place of what was there."""
    shutil.rmtree(folder, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    pages = {ROOT / each for each in listed.stdout.splitlines() if each.endswith(PAGES)}
    pages = {each for each in pages if each.is_file()}
    more = {each for page in pages if page.suffix == ".md" for each in linked(page)}
    for path in pages | more:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    api = folder / "api"
    api.mkdir()
    names = packages()
    rows = [f"- [`{name}`]({name}.md)" for name in names]
    api.joinpath("README.md").write_text("\n".join(["# API", "", *rows, ""]))
    for name in names:
        api.joinpath(f"{name}.md").write_text(f"# `{name}`\n\n::: {name}\n")


if __name__ == "__main__":
    lay_out(Path(sys.argv[1]))
