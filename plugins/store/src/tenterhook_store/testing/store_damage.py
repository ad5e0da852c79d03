"""Damage: what of a run is not as it was written, `verify_run` says."""

from pathlib import Path

import pytest

from tenterhook.errors import TenterhookError
from tenterhook_store import Run, Store
from tenterhook_store.testing.small_runs import a_plan, assert_committed, write

MOST = 24
"""How many files are damaged, of a store that has more: the rest are like them."""


class DamageTests:
    """No file that changed or went changes a row in silence."""

    def files(self, store: Store) -> list[Path]:
        """Return the files that a store has; all in the folder that `location` names by default."""
        place = Path(store.location)
        if place.is_file():
            return [place]
        if not place.is_dir():
            pytest.fail(f"{store.location} is no folder; override `files(store)` to say what is.")
        return sorted(each for each in place.rglob("*") if each.is_file())

    @pytest.mark.parametrize("how", ["a bit flips", "it is cut short", "it is gone"])
    def test_damage_is_found(self, lasting: Store, how: str) -> None:
        """Of each file in turn: `verify_run` says so, or all that is read is as it was written.

        A file that holds no row may go unnoticed, and a unit whose record is gone may count as not
        committed; a row that is another may not.
        """
        plan = a_plan()
        writer = lasting.write_run("one", plan)
        write(writer, plan.units())
        writer.finish()
        assert lasting.verify_run("one") == []

        files = self.files(lasting)
        assert files, "a run was written and `files(store)` names no file"
        found = 0
        for file in files[:: 1 + len(files) // MOST]:
            content = file.read_bytes()
            if not content:
                continue
            _damage(file, content, how)
            problems = _problems(lasting)
            assert problems or _is_as_written(lasting), f"{file}: {how}, and nobody says so"
            found += bool(problems)
            file.write_bytes(content)
        assert found, f"of no file `verify_run` says that {how}"
        assert lasting.verify_run("one") == []


def _damage(file: Path, content: bytes, how: str) -> None:
    if how == "it is gone":
        file.unlink()
    elif how == "it is cut short":
        file.write_bytes(content[: len(content) // 2])
    else:
        middle = len(content) // 2
        changed = bytes([content[middle] ^ 4])
        file.write_bytes(content[:middle] + changed + content[middle + 1 :])


def _problems(store: Store) -> list[str]:
    """Return what the store finds wrong; what it cannot open at all is wrong too."""
    try:
        return [str(problem) for problem in store.verify_run("one")]
    except TenterhookError as error:
        return [str(error)]


def _is_as_written(store: Store) -> bool:
    """Say whether what can be read is what was written; a run may lack units, and say which."""
    run: Run = store.run("one")
    try:
        assert_committed(run)
    except (AssertionError, TenterhookError):
        return False
    return True
