"""Threads that import, and ask for plugins while they do: real modules, real processes."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tenterhook.testing.fixtures import InstalledPlugins

MEET = """
import threading
plugin, module = threading.Event(), threading.Event()
"""
DECLARES = """
from tenterhook import Extension, hookimpl
@hookimpl
def tenterhook_detectors():
    return [Extension({0!r}, "fractions:Fraction", "Does it.")]
"""
PLUGIN = """
import meet
meet.plugin.set()
meet.module.wait(20)  # until the other thread is in the middle of importing `shared`
import shared
"""
SHARED = """
import meet
meet.module.set()
meet.plugin.wait(20)  # until the other thread is in the middle of importing the plugin
"""
ASKS = {
    "the default manager": "from tenterhook.plugins import default_manager\ndefault_manager()\n",
    "a hook": "from tenterhook.hooks import Other\n",
    "a refresh": "from tenterhook.plugins import default_manager\ndefault_manager().refresh()\n",
    "a manager of its own": "from tenterhook import PluginManager\nPluginManager()\n",
}
RUN = """
import importlib, sys, threading
from tenterhook.plugins import default_manager

failed = []
def run(call, *args):
    try:
        call(*args)
    except BaseException as error:
        failed.append(repr(error))

threads = [
    threading.Thread(target=run, args=(default_manager,), daemon=True),
    threading.Thread(target=run, args=(importlib.import_module, "shared"), daemon=True),
]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(30)
if any(thread.is_alive() for thread in threads):
    print("the threads wait for each other")
    sys.stdout.flush()
    import os
    os._exit(1)
print(failed, list(default_manager().extensions("detectors")), default_manager().problems)
"""


def run(site: Path, code: str, only: str) -> str:
    """Run code in a process that sees those plugins and modules; return what it prints."""
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": path, "TENTERHOOK_PLUGINS": only},
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("asks", ASKS)
def test_an_import_that_asks_and_a_plugin_that_imports_it(
    install: InstalledPlugins, asks: str
) -> None:
    """Neither waits for the other for ever, and both plugins are there in the end."""
    site = install("slow", {"slow": PLUGIN + DECLARES.format("Slow")})
    install("other", {"other": DECLARES.format("Other")})
    site.joinpath("meet.py").write_text(MEET)
    site.joinpath("shared.py").write_text(SHARED + ASKS[asks])

    assert run(site, RUN, "slow,other") == "[] ['Other', 'Slow'] ()\n"


def test_threads_that_ask_at_once(install: InstalledPlugins) -> None:
    """Each finds all of it, when the first of them still imports; nobody is told of a failure."""
    slow = "import time\ntime.sleep(0.05)\n"  # an import takes its time; nothing waits for this
    for name in "abcde":
        install(name, {name: slow + DECLARES.format(name.upper())})
    code = """
    import threading
    from tenterhook.plugins import default_manager
    start, found = threading.Barrier(8), []
    def look():
        start.wait()
        found.append((id(default_manager()), *default_manager().extensions("detectors")))
    threads = [threading.Thread(target=look) for _ in range(8)]
    for thread in threads: thread.start()
    for thread in threads: thread.join(60)
    print(len(found), len(set(found)), found[0][1:], default_manager().problems)
    """

    assert run(install.site, code, "a,b,c,d,e") == "8 1 ('A', 'B', 'C', 'D', 'E') ()\n"


def test_a_plugin_that_refreshes_while_it_is_imported(install: InstalledPlugins) -> None:
    """It finds what is there so far, and is there itself in the end."""
    asks = "from tenterhook.plugins import default_manager\n"
    for name in "abc":
        install(name, {name: f"{asks}default_manager().refresh()\n{DECLARES.format(name.upper())}"})
    code = """
    from tenterhook.plugins import default_manager
    print(*default_manager().extensions("detectors"), default_manager().problems)
    """

    assert run(install.site, code, "a,b,c") == "A B C ()\n"


def test_a_broken_plugin_is_reported_once_to_threads(install: InstalledPlugins) -> None:
    """Whichever of them finds it."""
    install("bad", {"bad": "import time\ntime.sleep(0.05)\n1 / 0"})
    code = """
    import threading, warnings
    from tenterhook.plugins import default_manager
    told = []
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *_: told.append(str(message))
    start = threading.Barrier(4)
    def look():
        start.wait()
        default_manager()
    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join(60)
    print(len(told), len(default_manager().problems))
    """

    assert run(install.site, code, "bad") == "1 1\n"


LOOK = """
import threading, warnings
from tenterhook.plugins import BrokenPlugins, default_manager
warnings.simplefilter("ignore")
start, found = threading.Barrier(8), []
def look():
    start.wait()
    try:
        manager = default_manager()
        found.append((len(manager.extensions("detectors")), len(manager.problems)))
    except BrokenPlugins as error:
        found.append(len(error.problems))
threads = [threading.Thread(target=look) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join(60)
print(len(found), set(found))
"""


@pytest.mark.parametrize(("strict", "found"), [("0", "{(1, 2)}"), ("1", "{2}")])
def test_threads_see_all_that_is_wrong(
    install: InstalledPlugins, monkeypatch: pytest.MonkeyPatch, strict: str, found: str
) -> None:
    """Whoever found it: none goes on as if nothing were, least of all in strict mode."""
    monkeypatch.setenv("TENTERHOOK_STRICT_PLUGINS", strict)
    install("bad", {"bad": "import time\ntime.sleep(0.01)\n1 / 0"})
    install("one", {"one": DECLARES.format("One")})
    install("same", {"same": DECLARES.format("Same")})
    install("slow", {"slow": "import time\ntime.sleep(0.05)\n" + DECLARES.format("Same")})

    for _ in range(5):  # it takes luck to see it
        assert run(install.site, LOOK, "bad,one,same,slow") == f"8 {found}\n"


def test_a_plugin_that_is_imported_first_and_asks(install: InstalledPlugins) -> None:
    """It is half imported when all are loaded, and is loaded when it is asked for next."""
    asks = "from tenterhook.hooks import Other\n"
    install("single", {"single": asks + DECLARES.format("Single").replace("detectors", "loaders")})
    install("other", {"other": DECLARES.format("Other")})
    code = """
    import plugin_single
    from tenterhook.plugins import default_manager
    print(*default_manager().extensions("loaders"), default_manager().problems)
    """

    assert run(install.site, code, "single,other") == "Single ()\n"
