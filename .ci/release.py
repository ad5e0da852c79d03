"""What a release would publish, in order; `nox -s release` runs this over what it has built.

Nothing is uploaded. The distributions of this repository are released in lockstep: all at one
version, each after those that it asks for, so that at no time can one be installed whose
dependencies are not there yet.
"""

import email
import graphlib
import re
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator, Mapping
from email.message import Message
from pathlib import Path

ROOT = Path(__file__).parents[1]


def version() -> str:
    """Return the version in the one file that holds it."""
    text = ROOT.joinpath("core/src/tenterhook/_version.py").read_text()
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    assert found
    return found[1]


def distributions() -> dict[str, set[str]]:
    """Return the names of our distributions, and which of ours each asks for."""
    folders = [
        ROOT,
        ROOT / "core",
        *(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")),
    ]
    found = {}
    for folder in folders:
        project = tomllib.loads(folder.joinpath("pyproject.toml").read_text())["project"]
        required = {re.split(r"[\[<>=]", each)[0] for each in project["dependencies"]}
        found[project["name"]] = {each for each in required if each.startswith("tenterhook")}
    return found


def in_order(distributions: Mapping[str, set[str]]) -> list[str]:
    """Sort names so that each comes after those that it asks for, alike ones by name."""
    sorter = graphlib.TopologicalSorter(distributions)
    sorter.prepare()
    found: list[str] = []
    while ready := sorted(sorter.get_ready()):
        found += ready
        sorter.done(*ready)
    return found


def metadata_of(built: Path) -> Message:
    """Read the metadata of a wheel or an sdist."""
    if built.suffix == ".whl":
        with zipfile.ZipFile(built) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            return email.message_from_bytes(wheel.read(name))
    with tarfile.open(built) as sdist:
        file = sdist.extractfile(f"{built.name.removesuffix('.tar.gz')}/PKG-INFO")
        assert file
        return email.message_from_bytes(file.read())


def license_in(built: Path) -> bytes | None:
    """Return the license that a wheel or an sdist holds, if any."""
    if built.suffix == ".whl":
        with zipfile.ZipFile(built) as wheel:
            names = [name for name in wheel.namelist() if name.endswith("/licenses/LICENSE")]
            return wheel.read(names[0]) if names else None
    with tarfile.open(built) as sdist:
        names = [name for name in sdist.getnames() if name.count("/") == 1]
        (name,) = [name for name in names if name.endswith("/LICENSE")] or [""]
        file = sdist.extractfile(name) if name else None
        return file.read() if file else None


def problems(folder: Path, names: list[str], version: str) -> Iterator[str]:
    """Say what keeps the files of a folder from being released at a version."""
    major, minor, *_ = version.split(".")
    range_of_ours = {f">={version}", f"<{major}.{int(minor) + 1}"}
    expected = [file for name in names for file in files_of(folder, name, version)]
    for file in expected:
        if not file.exists():
            yield f"{file.name} was not built"
            continue
        if license_in(file) != ROOT.joinpath("LICENSE").read_bytes():
            yield f"{file.name} does not hold LICENSE as it is"
        metadata = metadata_of(file)
        if metadata["Version"] != version:
            yield f"{file.name} says that it is version {metadata['Version']}, not {version}"
        for required in metadata.get_all("Requires-Dist", []):
            name, bounds = split(required)
            if name.startswith("tenterhook") and set(bounds.split(",")) != range_of_ours:
                yield f"{file.name} asks for {required}, not {','.join(sorted(range_of_ours))}"
    for file in sorted({*folder.glob("*.whl"), *folder.glob("*.tar.gz")} - {*expected}):
        yield f"{file.name} is of no distribution of this repository at {version}"


def split(requirement: str) -> tuple[str, str]:
    """Return the name and the bounds of a requirement: `a[b]<2,>=1; c` gives `a`, `<2,>=1`."""
    found = re.match(r"([\w.-]+)(?:\[[^\]]*\])?\s*([^;]*)", requirement)
    assert found
    return found[1], found[2].strip()


def files_of(folder: Path, name: str, version: str) -> tuple[Path, Path]:
    """Return where the sdist and the wheel of a distribution are built to."""
    stem = f"{name.replace('-', '_')}-{version}"
    return folder / f"{stem}.tar.gz", folder / f"{stem}-py3-none-any.whl"


def notes(version: str) -> Iterator[str]:
    """Say what is to be written by hand before a release."""
    headings = re.findall(r"^## (.+)$", ROOT.joinpath("CHANGELOG.md").read_text(), re.MULTILINE)
    if not headings[0].startswith(version):
        yield f"CHANGELOG.md begins with {headings[0]!r}, and a release with {version!r} and a date"


def main(folder: Path) -> int:
    """Check what was built and list it; return an exit code."""
    names, current = in_order(distributions()), version()
    found = list(problems(folder, names, current))
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if found:
        return 1
    print(f"Version {current}, {len(names)} distributions. A release would publish, in this order:")
    for number, name in enumerate(names, 1):
        sizes = (
            f"{file.name} ({file.stat().st_size / 1e3:,.0f} kB)"
            for file in files_of(folder, name, current)
        )
        print(f"{number:3}. {name}: {', '.join(sizes)}")
    for note in notes(current):
        print(f"Before a release: {note}.")
    print("Nothing was published.")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
