"""How the tasks of a Slurm job reach the process that sent for them: one TCP connection each.

Both sides prove that they know a key, which the job's script holds, before either reads anything
else: what follows is pickled. The key never goes over the network, and serves one run of an engine.
"""

import contextlib
import hashlib
import hmac
import os
import secrets
import socket
import threading
import time
from collections import deque
from multiprocessing import Pipe
from multiprocessing.connection import Connection

PATIENCE = 10.0
"""Seconds that the other side has to prove itself."""

_NONCE = 32
_HELLO = b"tenterhook slurm 1\n"


class Stranger(OSError):
    """The other side does not know the key."""


class Door:
    """Where tasks arrive: listens on a port of its own, and takes in who knows the key.

    `bell` can be waited for; it is ready while `arrived` has something to return.
    """

    def __init__(self) -> None:
        self.key = secrets.token_hex(32)
        if socket.has_dualstack_ipv6():
            family, dual = socket.AF_INET6, True
        else:
            family, dual = socket.AF_INET, False
        self._socket = socket.create_server(
            ("", 0), family=family, dualstack_ipv6=dual, backlog=1024
        )
        self._socket.settimeout(0.5)
        self.port: int = self._socket.getsockname()[1]
        self.bell, self._rope = Pipe(duplex=False)
        self._arrived: deque[Connection] = deque()
        self._lock = threading.Lock()
        self._is_open = True
        self._thread = threading.Thread(target=self._listen, name="tenterhook-slurm", daemon=True)
        self._thread.start()

    def arrived(self) -> Connection:
        """Return a connection that was made."""
        self.bell.recv_bytes()
        return self._arrived.popleft()

    def close(self) -> None:
        """Take in nobody any more."""
        with self._lock:
            self._is_open = False
        self._thread.join()
        self._socket.close()
        while self.bell.poll():
            self.arrived().close()
        self.bell.close()
        self._rope.close()

    def _listen(self) -> None:
        while self._is_open:
            with contextlib.suppress(OSError):  # nobody called, or did not wait
                caller, _ = self._socket.accept()
                # Each in a thread of its own: one who says nothing keeps nobody waiting.
                threading.Thread(target=self._take_in, args=(caller,), daemon=True).start()

    def _take_in(self, caller: socket.socket) -> None:
        try:
            _prove(caller, self.key, b"driver", b"task")
        except OSError:
            caller.close()
            return
        with self._lock:
            if not self._is_open:
                caller.close()
                return
            self._arrived.append(_connection(caller))
            self._rope.send_bytes(b"1")


def connect(host: str, port: int, key: str, within: float = 60.0) -> Connection:
    """Return a connection to a door; `OSError` where it is not reached in so many seconds."""
    until = time.monotonic() + within
    while True:
        try:
            called = socket.create_connection((host, port), PATIENCE)
            try:
                _prove(called, key, b"task", b"driver")
            except OSError:
                called.close()
                raise
            return _connection(called)
        except Stranger:
            raise
        except OSError:
            # Nobody listens there: the one who sent for us is gone, or the network is not up yet.
            if time.monotonic() > until:
                raise
            time.sleep(0.5)


def wait_for_end(pipe: Connection) -> None:
    """Return when the other side has closed the connection, or is not heard of any more."""
    with socket.socket(fileno=os.dup(pipe.fileno())) as seen:
        seen.setblocking(True)
        with contextlib.suppress(OSError):
            while seen.recv(1, socket.MSG_PEEK):  # it is for another thread to read
                time.sleep(0.2)


def _connection(made: socket.socket) -> Connection:
    made.settimeout(None)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # A machine that is gone says nothing: after a minute and a half it is taken to be.
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6)):
        if hasattr(socket, name):
            made.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Connection(made.detach())


def _prove(other: socket.socket, key: str, us: bytes, them: bytes) -> None:
    """Show the other side that we know the key, and see that it does; `Stranger`."""
    other.settimeout(PATIENCE)
    ours = secrets.token_bytes(_NONCE)
    other.sendall(_HELLO + ours)
    if _read(other, len(_HELLO)) != _HELLO:
        raise Stranger("it speaks of something else")
    theirs = _read(other, _NONCE)
    other.sendall(_digest(key, us, ours, theirs))
    proof = _read(other, hashlib.sha256().digest_size)
    if not hmac.compare_digest(proof, _digest(key, them, theirs, ours)):
        raise Stranger("it does not know the key")


def _digest(key: str, who: bytes, own: bytes, other: bytes) -> bytes:
    return hmac.new(key.encode(), b"|".join((who, own, other)), hashlib.sha256).digest()


def _read(other: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = other.recv(count - len(found))
        if not more:
            raise Stranger("it hung up")
        found += more
    return found
