"""Files of a store that are changed at random: each is read right, or an error names what is wrong.

A sample, by default; `nox -s faults` does 3,000 changed records and 10,000 flipped bits.
"""

import contextlib
import copy
import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook.errors import TenterhookError
from tenterhook_capture import run_status
from tenterhook_cli import main
from tenterhook_store import DamagedStore, Problem, Run
from tenterhook_store.testing import a_plan, rows_of
from tenterhook_zarr import ZarrStore
from tenterhook_zarr._layout import to_json
from tenterhook_zarr._records import sealed

FLIPS = int(os.environ.get("TENTERHOOK_FUZZ", "300"))
"""How many bits are flipped; three records are changed for every ten of them."""

KINDS = [
    "plan.json",
    "commits/000001.json",
    "log/000001.json",
    "sessions/s.json",
    "attributes/note.json",
    "arrays/zarr.json",
    "arrays/layers/h.0/zarr.json",
    "arrays/rows/token/zarr.json",
    "../../tensors/t/current.json",
    "../../tensors/t/ARRAY/zarr.json",
    "../../tenterhook.json",
]

ODD: list[Any] = [
    None, True, False, 0, -1, 1, 3, 2**31, 2**63, 2**64, 10**299, -(2**63), 0.5, -0.0, 1e308,
    "", "x", "..", "/", "\x00", "\x1b[2J", "é" * 300, "0", "99", "float16", "int8", "c", "NaN",
    [], [[]], [0], ["x"], [None] * 5, {}, {"": {}}, {"x": [1, {"y": None}]},
]  # fmt: skip


ERRORS = {"squared_error": 1.0, "squared": 2.0, "max_error": 0.5, "rows_not_finite": 0}
LOST = {"values": 24, "too_large": 1, "too_small": 0}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a store with a whole run and a tensor."""
    folder = tmp_path_factory.mktemp("store")
    found = ZarrStore(folder)
    plan = a_plan(layers=[("h.0", 3, "float32"), ("h.1", 5, "int8")])
    writer = found.write_run("one", plan)
    session = {"start": "2026-01-01T00:00:00+00:00", "end": None, "host": "there", "process": 7}
    failed = {"1": {"error": "OSError: x", "tries": 3}}
    versions = {"torch": "2"}
    git = {"commit": "abc", "changed": False}
    writer.note_session("s", {**session, "failed": failed, "versions": versions, "git": git})
    for unit in plan.units():
        with writer.open_unit(unit) as writing:
            writing.append(rows_of(plan, unit.start, unit.stop))
            writing.keep("mean", torch.ones(3))
            times = {"start": "2026-01-01T00:00:00+00:00", "end": "2026-01-01T00:00:02+00:00"}
            writing.commit({**times, "int8": {"h.1": ERRORS}, "out_of_range": {"h.0": LOST}})
    found.set_attribute("one", "note", {"x": [1, 2]})
    found.save_tensor("t", torch.arange(6).reshape(2, 3))
    return folder


def path_of(store: Path, kind: str) -> Path:
    """Return a file by its place in the run."""
    array = next((store / "tensors/t").glob("array-*")).name
    return (store / "runs/one" / kind.replace("ARRAY", array)).resolve()


@contextlib.contextmanager
def changed(path: Path, content: bytes) -> Iterator[None]:
    """Have a file say something else."""
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        yield
    finally:
        path.write_bytes(before)


def mutated(value: Any, chance: random.Random) -> Any:
    """Return JSON of which one part, at any depth, is another, is gone, is there twice, is new."""
    value = copy.deepcopy(value)
    places: list[tuple[Any, Any]] = []
    level = [value]
    while level:
        holder = level.pop()
        keys = holder.keys() if isinstance(holder, dict) else range(len(holder))
        for key in keys:
            places.append((holder, key))
            if isinstance(holder[key], dict | list):
                level.append(holder[key])
    holder, key = chance.choice(places)
    way = chance.randrange(4)
    if way == 0:
        del holder[key]
    elif way == 1 and isinstance(holder, dict):
        holder[str(chance.choice(ODD))] = holder.pop(key)
    elif way == 2 and isinstance(holder, list):
        holder.insert(key, chance.choice([*ODD, holder[key]]))
    else:
        holder[key] = copy.deepcopy(chance.choice(ODD))
    return value


def spoilt(path: Path, chance: random.Random) -> bytes:
    """Return other content for a file: mostly well-formed, and with a right seal."""
    content = path.read_bytes()
    if chance.random() < 0.2:
        at = chance.randrange(len(content))
        return content[:at] + chance.choice([b"", b"\xff", b"[" * 10**5, b"1e999,", b"NaN"])
    found = json.loads(content)
    has_seal = found.pop("crc32c", None) is not None
    found = mutated(found, chance)
    with contextlib.suppress(TypeError, AttributeError):
        return sealed(found) if has_seal else to_json(found)
    return to_json(found)


def look_at_run(folder: Path) -> None:
    """Read everything that the run has."""
    run = ZarrStore(folder, create=False).run("one")
    for layer in run.layers:
        run[layer][:]
        run[layer][[3, 1]]
    run.tokens[:]
    run.documents.rows(1)
    for unit in range(3):
        [run.unit_tensor(unit, name) for name in run.unit_tensors(unit)]
    assert json.dumps(run.metadata)
    run_status(run)


@pytest.mark.parametrize(
    "facts",
    [
        {"int8": {"h.1": {**ERRORS, "squared": -1}}},
        {"int8": {"h.1": {**ERRORS, "squared": 1e301}}},
        {"int8": {"h.1": {**ERRORS, "max_error": "1"}}},
        {"int8": []},
        {"out_of_range": {"h.0": {**LOST, "too_large": -1}}},
        {"out_of_range": {"h.0": {"values": 1}}},
        {"out_of_range": [1]},
    ],
)
def test_what_a_unit_s_log_says_is_structured(store: Path, facts: dict[str, Any]) -> None:
    """Counts and sums of squares that cannot be."""
    path = path_of(store, "log/000001.json")
    found = json.loads(path.read_bytes())
    del found["crc32c"]
    said = r"log/000001\.json: this is no record of ours"
    with changed(path, sealed({**found, **facts})), pytest.raises(DamagedStore, match=said):
        json.dumps(ZarrStore(store, create=False).run("one").metadata)


@pytest.mark.timeout(3600)
def test_changed_records(store: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Whatever a file says, no command and no reader fails but with an error of ours."""
    looks: list[Callable[[], object]] = [
        lambda: look_at_run(store),
        lambda: ZarrStore(store, create=False).load_tensor("t"),
        lambda: ZarrStore(store, create=False).verify_run("one"),
    ]
    for number in range(FLIPS * 3 // 10):
        chance = random.Random(number)
        kind = KINDS[number % len(KINDS)]
        path = path_of(store, kind)
        content = spoilt(path, chance)
        with changed(path, content):
            for look in looks:
                try:
                    look()
                except TenterhookError:
                    continue
                except Exception as error:  # noqa: BLE001 - which file it was is what matters
                    pytest.fail(f"{number}: {kind}: {error!r} of {content[:2000]!r}")
            for command in ("list", "show", "status", "verify"):
                with pytest.raises(SystemExit):
                    main(["runs", command, str(store)])
            said = capfd.readouterr()
            assert "--debug" not in said.err, f"{number}: {kind}: {said.err} of {content[:2000]!r}"
            assert "\x1b" not in said.out + said.err
    look_at_run(store)
    assert ZarrStore(store).verify_run("one") == []


@pytest.mark.timeout(3600)
def test_flipped_bits_of_metadata(store: Path) -> None:
    """No bit of a `zarr.json` that is read can change unnoticed."""
    paths = [path_of(store, kind) for kind in KINDS if kind.endswith("zarr.json")]
    chance = random.Random(0)
    for _ in range(FLIPS):
        path = chance.choice(paths)
        content = bytearray(path.read_bytes())
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        with changed(path, bytes(content)):
            if "tensors" in path.parts:
                with pytest.raises(DamagedStore, match=r"zarr\.json: its checksum says"):
                    ZarrStore(store).load_tensor("t")
                continue
            if path.parent.name != "arrays":  # a group's is for other readers of zarr alone
                run = ZarrStore(store).run("one")
                with pytest.raises(DamagedStore, match=r"zarr\.json: this is (not|no)"):
                    rows_by(run, path)
            problems = ZarrStore(store).verify_run("one")
            assert str(path) in {each.file for each in problems}, problems
            assert all(isinstance(each, Problem) for each in problems)


def rows_by(run: Run, path: Path) -> Any:
    """Read the array whose metadata a file has."""
    name = path.parent.name
    return run.tokens[:1] if name == "token" else run[name][:1]
