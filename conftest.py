"""What every test of the repository starts from."""

import gc
import os
import random
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before torch is imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models here are tiny; threads only wait
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork

try:
    from hypothesis import settings
except ModuleNotFoundError:  # the environment of built wheels has none
    pass
else:
    settings.register_profile("tenterhook", deadline=None)  # slow machines are no bug of ours
    settings.load_profile("tenterhook")


pytest_plugins = ["tenterhook.testing.fixtures"]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a fixed, seeded sample of each group of tests marked `matrix`.

    A group is what the mark stands on: a parametrized function, a class or a module. All of it runs
    with `TENTERHOOK_WHOLE=1` (`nox -s whole`), and where no more than the sample was asked for.
    """
    if os.environ.get("TENTERHOOK_WHOLE", "") not in ("", "0"):
        return
    groups: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        for node, mark in item.iter_markers_with_node("matrix"):
            name = item.nodeid.partition("[")[0] if node is item else node.nodeid
            groups.setdefault((name, mark.kwargs["sample"]), []).append(item)
    left_out: set[pytest.Item] = set()
    # The smallest first: what one mark leaves out is not chosen for another.
    for (name, size), whole in sorted(groups.items(), key=lambda each: each[0][::-1]):
        group = sorted(set(whole) - left_out, key=lambda item: item.nodeid)
        kept = random.Random(name).sample(group, min(size, len(group)))
        left_out.update(item for item in group if item not in kept)
    if left_out:
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(autouse=True, scope="module")
def old_objects_out_of_the_way() -> None:
    """Have the garbage collector pass over all that was there before the module's first test.

    What is imported and collected are millions of objects, and many tests ask it to look for one
    that they let go: a fifth of the time of all tests went into that.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_plugin_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the variables of whoever runs the tests from choosing the plugins."""
    for name in ("TENTERHOOK_PLUGINS", "TENTERHOOK_BLOCK_PLUGINS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_installed_plugins(no_plugin_variables: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the test a default manager of its own, which loads nothing."""
    monkeypatch.setenv("TENTERHOOK_PLUGINS", "")
    monkeypatch.setattr("tenterhook.plugins.default._default", None)


@pytest.fixture
def world_of_one() -> Iterator[None]:
    """Have this process be the only one of a process group of torch."""
    import torch  # tests of what is imported begin without it
    from torch import distributed

    store = torch._C._distributed_c10d.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a disk of 200 kB."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(place)]
        is_mounted = not subprocess.run(mount, capture_output=True).returncode
    except FileNotFoundError:
        is_mounted = False
    if not is_mounted:
        pytest.skip("may not mount a tmpfs here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)  # an error may hold a file there


@pytest.fixture
def th(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[object, str, str]]:
    """Run the command line: `code, stdout, stderr = th("plugins", "list")`."""
    import tenterhook_cli  # core's own tests run without it

    def run(*args: str) -> tuple[object, str, str]:
        with pytest.raises(SystemExit) as stop:
            tenterhook_cli.main(args)
        return stop.value.code, *capfd.readouterr()

    return run
