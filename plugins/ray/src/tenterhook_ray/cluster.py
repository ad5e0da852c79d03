"""The connection to a Ray cluster: somebody's, or one that is started for as long as it is used.

A process has one connection at a time, and several runs may share it: whoever comes first opens it,
the last one closes it. One that was there before, as in a notebook, is used and left alone.

A cluster of ours hears whoever knows its token, and nobody else. Ray would write one into the home
directory; here it is in the environment of this process and what it starts. All files are in a
temporary folder, and a caretaker sees to it that nothing is left, however this process ends.
"""

import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tenterhook.plugins import MissingDependency
from tenterhook_ray.errors import NoCluster

OBJECTS = 80 << 20
"""Bytes of shared memory for objects, about the least that Ray takes: only facts come by."""

LONGEST = 40
"""Characters that the folder's parent may have: below it are sockets, whose paths must be short."""

STARTS = 3
"""How often a cluster of ours is started before that is given up."""

PATIENCE = 10.0
"""Seconds in which an address must answer."""

_lock = threading.Lock()
_users = 0
_close: Callable[[], None] | None = None


def the_ray() -> Any:
    """Return the module `ray`; `MissingDependency` where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        raise MissingDependency("The engine 'ray'", "ray", "tenterhook-ray[ray]") from error


@contextmanager
def connected(address: str | None, *, cpus: float) -> Iterator[Any]:
    """Give the module `ray`, connected; a cluster that is started has so many CPUs.

    Raises `NoCluster`, and `MissingDependency`.
    """
    global _users, _close
    with _lock:
        if not _users:
            _close = _connect(address, cpus)
        _users += 1
    try:
        yield the_ray()
    finally:
        with _lock:
            _users -= 1
            if not _users and _close is not None:
                _close()


def _connect(address: str | None, cpus: float) -> Callable[[], None]:
    """Connect; return what takes it back."""
    address = address or os.environ.get("RAY_ADDRESS")
    if not address and "ray" not in sys.modules:  # later is too late
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    ray = the_ray()
    if ray.is_initialized():
        return lambda: None
    if not address:
        return _start(ray, cpus)
    try:
        _call(address)
        _init(ray, address=address)
    except (OSError, RuntimeError, ValueError) as error:
        raise NoCluster(address, " ".join(str(error).split())) from error
    return lambda: ray.shutdown()


def _call(address: str) -> None:
    """Raise an `OSError` where nobody listens, which takes Ray itself minutes to say."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), PATIENCE).close()


def _init(ray: Any, **settings: Any) -> None:
    """Connect, and leave to this process what it does about SIGTERM."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **settings)
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)


def _start(ray: Any, cpus: float) -> Callable[[], None]:
    """Start a cluster of one node; return what ends it and leaves nothing behind."""
    # It stays set, for Ray reads it once in a process.
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    for tried in range(1, STARTS + 1):
        caretaker = Caretaker()
        try:
            _init(
                ray,
                address="local",
                num_cpus=max(math.ceil(cpus), 1),
                object_store_memory=OBJECTS,
                include_dashboard=False,
                _temp_dir=str(caretaker.folder),
            )
            break
        except BaseException as error:
            ray.shutdown()
            caretaker.end()
            # Ray gives itself 30 seconds, which a busy machine may take; what it raises has no
            # class of its own.
            if not isinstance(error, Exception):
                raise
            if tried == STARTS:
                raise NoCluster("local", " ".join(str(error).split())) from error

    def close() -> None:
        try:
            ray.shutdown()
        finally:
            caretaker.end()

    return close


class Caretaker:
    """A folder, and a process that removes it with all that uses it once this process is done.

    It waits for the end of a pipe that closes when this process does, whatever ends it.
    """

    def __init__(self) -> None:
        parent = tempfile.gettempdir()
        self.folder = Path(
            tempfile.mkdtemp(prefix="th-ray-", dir="/tmp" if len(parent) > LONGEST else parent)
        )
        theirs, self._alive = os.pipe()
        script = Path(__file__).with_name("caretaker.py")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(script), str(theirs), str(self.folder)],
                pass_fds=(theirs,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C in a terminal is not for it
            )
        finally:
            os.close(theirs)

    def end(self) -> None:
        """Have it remove everything now; returns when it has."""
        os.close(self._alive)
        self._process.wait()
