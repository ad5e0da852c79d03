"""A store in S3: a real server on loopback, behind a proxy that fails as servers do."""

import http.client
import http.server
import multiprocessing
import os
import re
import resource
import signal
import socket
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from tenterhook_store import (
    DamagedStore,
    DeletedRun,
    NoStore,
    NotAStore,
    NotWritable,
    OtherRun,
    UnknownRun,
    Unreachable,
)
from tenterhook_store.testing import a_plan, rows_of, same_bits, write
from tenterhook_zarr import ZarrStore

pytest.importorskip("obstore")
pytest.importorskip("flask")
moto_server = pytest.importorskip("moto.server")

pytestmark = pytest.mark.matrix(sample=12)

Fault = Callable[["_Handler"], bool]
"""Does something to a request instead of passing it on; `False` where it does not concern it."""


class Proxy(http.server.ThreadingHTTPServer):
    """Passes requests on to a server, notes them, and fails where it is told to."""

    daemon_threads = True

    def __init__(self, host: str, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = (host, port)
        self.fault: Fault | None = None
        self.seen: list[tuple[str, str]] = []

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Proxy
    protocol_version = "HTTP/1.1"

    def pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.server.fault is not None and self.server.fault(self):
            return
        self.server.seen.append((self.command, self.path))
        behind = http.client.HTTPConnection(*self.server.behind, timeout=30)
        try:
            behind.request(self.command, self.path, body, dict(self.headers))
            answer = behind.getresponse()
            content = answer.read()
        finally:
            behind.close()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = pass_on

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def fails(method: str, path: str, *, times: int = 10**6) -> Fault:
    """Answer 500 to some requests, the first times."""
    left = times

    def fault(request: _Handler) -> bool:
        nonlocal left
        if not left or request.command != method or not re.search(path, request.path):
            return False
        left -= 1
        request.send_response(500)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return True

    return fault


def cuts(method: str, path: str, *, times: int = 10**6) -> Fault:
    """Cut the connection of some requests, in the middle of the answer."""
    left = times

    def fault(request: _Handler) -> bool:
        nonlocal left
        if not left or request.command != method or not re.search(path, request.path):
            return False
        left -= 1
        request.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Le")
        request.connection.shutdown(socket.SHUT_RDWR)
        request.close_connection = True
        return True

    return fault


def refuses(method: str, path: str) -> Fault:
    """Answer 403 to some requests, as to a key that nobody knows."""

    def fault(request: _Handler) -> bool:
        if request.command != method or not re.search(path, request.path):
            return False
        said = b"<Error><Code>InvalidAccessKeyId</Code></Error>"
        request.send_response(403)
        request.send_header("Content-Length", str(len(said)))
        request.end_headers()
        request.wfile.write(said)
        return True

    return fault


def meanwhile(method: str, path: str, act: Callable[[], None]) -> Fault:
    """Do something once, before the first of some requests is passed on."""
    acts = [act]

    def fault(request: _Handler) -> bool:
        if acts and request.command == method and re.search(path, request.path):
            acts.pop()()
        return False

    return fault


def dawdles(method: str, path: str, seconds: float) -> Fault:
    """Answer some requests late."""

    def fault(request: _Handler) -> bool:
        if request.command == method and re.search(path, request.path):
            time.sleep(seconds)
        return False

    return fault


@pytest.fixture(scope="module")
def behind() -> Iterator[tuple[str, int]]:
    """Run a server that does what S3 does, with a bucket in it."""
    server = moto_server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    put = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
    urllib.request.urlopen(put).close()
    yield host, port
    server.stop()


@pytest.fixture
def proxy(behind: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """Put a proxy before it, and have the environment lead there."""
    proxy = Proxy(*behind)
    thread = threading.Thread(target=proxy.serve_forever, args=[0.02], daemon=True)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    yield proxy
    proxy.shutdown()
    proxy.server_close()
    thread.join()


@pytest.fixture
def url(request: pytest.FixtureRequest) -> str:
    """Return a prefix of the test's own."""
    return f"s3://bucket/{re.sub('[^a-z0-9]+', '-', request.node.name.lower())}"


def test_run_in_s3(proxy: Proxy, url: str) -> None:
    """A run is written, read, verified and deleted; tensors and notes too."""
    store, plan = ZarrStore(url), a_plan()
    writer = store.write_run("one", plan)
    with writer.open_unit(plan.unit(0)) as writing:
        writing.append(rows_of(plan, 0, 8))
        writing.keep("mean", torch.ones(3, dtype=torch.bfloat16))
        writing.commit({})
    assert len(ZarrStore(url).run("one")) == 8
    write(writer, plan.units()[1:])
    writer.finish()
    store.set_attribute("one", "tags", ["a"])
    store.save_tensor("a/b", torch.arange(3))
    again = ZarrStore(url, create=False)
    run = again.run("one")
    for layer in run.layers:
        assert same_bits(run[layer][:], rows_of(plan, 0, 20).layers[layer])
    assert (
        run["h.0"][[3, 1, 19]].tolist() == rows_of(plan, 0, 20).layers["h.0"][[3, 1, 19]].tolist()
    )
    assert run.unit_tensor(0, "mean").dtype is torch.bfloat16
    assert run.attributes == {"tags": ["a"]}
    assert again.load_tensor("a/b").tolist() == [0, 1, 2]
    assert again.verify_run("one") == []
    with pytest.raises(OtherRun):
        again.write_run("one", a_plan(rows=21))
    again.delete_run("one")
    assert again.runs() == []
    with pytest.raises(NotAStore, match="holds something else"):
        ZarrStore(f"{url}/tensors/a%2Fb")


def test_one_put_per_shard_and_the_record_last(proxy: Proxy, url: str) -> None:
    """Every object of a unit is put once, nothing is copied, and the record comes after all."""
    plan = a_plan()
    writer = ZarrStore(url).write_run("one", plan)
    proxy.seen.clear()
    write(writer, plan.units()[:1])
    puts = [path for method, path in proxy.seen if method == "PUT"]
    assert len([path for path in puts if "/c/0" in path]) == 5
    assert len(puts) == len(set(puts)) == 7
    assert puts[-1].endswith("/commits/000000.json")
    assert {method for method, _ in proxy.seen} <= {"PUT", "GET", "HEAD"}


@pytest.mark.parametrize("fault", [fails, cuts])
def test_server_that_fails_for_a_while(proxy: Proxy, url: str, fault: Any) -> None:
    """What fails twice is tried again, and the run is what it would have been."""
    plan = a_plan()
    writer = ZarrStore(url, retries=4, timeout=10).write_run("one", plan)
    proxy.fault = fault("PUT", r"/c/\d|/commits/", times=2)
    write(writer, plan.units())
    proxy.fault = fault("GET", r"/c/\d", times=2)
    store = ZarrStore(url, retries=4, timeout=10)
    assert same_bits(store.run("one")["h.1"][:], rows_of(plan, 0, 20).layers["h.1"])
    assert store.verify_run("one") == []


@pytest.mark.parametrize("fault", [fails, cuts])
@pytest.mark.parametrize("object_", [r"h\.1/c/1", "commits/000001"], ids=["shard", "record"])
def test_server_that_goes_on_failing(proxy: Proxy, url: str, fault: Any, object_: str) -> None:
    """After some tries there is an error that names the object; what is committed stays, and the
    run goes on once the server does."""
    plan = a_plan()
    writer = ZarrStore(url, retries=1, timeout=5).write_run("one", plan)
    proxy.fault = fault("PUT", object_)
    began = time.monotonic()
    with pytest.raises(Unreachable, match=rf"{url}/runs/one/.*{object_}.*What is committed stays"):
        write(writer, plan.units())
    assert time.monotonic() - began < 30
    proxy.fault = None
    store = ZarrStore(url)
    assert store.run("one").committed == {0}
    assert store.verify_run("one") == []
    assert same_bits(store.run("one")["h.0"][:], rows_of(plan, 0, 8).layers["h.0"])
    again = store.write_run("one", plan)
    write(again, [plan.unit(number) for number in range(3) if number not in again.committed()])
    again.finish()
    assert store.verify_run("one") == []
    assert same_bits(store.run("one")["h.1"][:], rows_of(plan, 0, 20).layers["h.1"])


def test_server_that_cannot_be_read_from(proxy: Proxy, url: str) -> None:
    """Rows that cannot be fetched are an error that names where they are, and no fill values."""
    plan = a_plan()
    write(ZarrStore(url).write_run("one", plan), plan.units())
    rows = ZarrStore(url, retries=1, timeout=5).run("one")["h.0"]
    proxy.fault = fails("GET", r"h\.0/c/")
    with pytest.raises(Unreachable, match=rf"{url}/runs/one/arrays/layers/h\.0.*cannot be read"):
        rows[:]
    proxy.fault = None
    assert len(rows[:]) == 20


def test_slow_server(proxy: Proxy, url: str) -> None:
    """An answer that takes too long is waited for no longer than was said."""
    plan = a_plan()
    writer = ZarrStore(url, retries=1, timeout=0.3).write_run("one", plan)
    proxy.fault = dawdles("PUT", r"/c/", 1.5)
    began = time.monotonic()
    with pytest.raises(Unreachable, match=rf"{url}/runs/one/arrays/.*/c/0"):
        write(writer, plan.units())
    assert time.monotonic() - began < 10
    proxy.fault = dawdles("PUT", r"/c/", 0.1)
    store = ZarrStore(url)
    write(store.write_run("one", plan), plan.units())
    assert store.verify_run("one") == []


def test_shard_that_is_gone_or_changed(proxy: Proxy, url: str) -> None:
    """Damage of an object is an error that names it, and `verify_run` says of which unit."""
    plan, store = a_plan(), ZarrStore(url)
    write(store.write_run("one", plan), plan.units())
    shard = store.path / "runs/one/arrays/layers/h.0/c/1/0"
    content = bytearray(store._backend.files.read(shard))
    content[5] ^= 1
    store._backend.files.write(shard, bytes(content))
    with pytest.raises(DamagedStore, match=r"layers/h\.0"):
        store.run("one")["h.0"][8:16]
    assert len(store.run("one")["h.0"][:8]) == 8
    (problem,) = store.verify_run("one")
    assert (problem.unit, problem.file) == (1, f"{url}/runs/one/arrays/layers/h.0/c/1/0")
    store._backend.files.remove(shard)
    with pytest.raises(DamagedStore, match=r"h\.0/c/1/0: this file is gone"):
        store.run("one")["h.0"][8:16]


def test_removal_that_was_cut_short(proxy: Proxy, url: str) -> None:
    """A run whose removal stopped in the middle is not there, and another can take its place."""
    plan, store = a_plan(), ZarrStore(url, retries=0, timeout=5)
    write(store.write_run("one", plan), plan.units())
    proxy.fault = fails("POST", r"delete", times=10**6)
    delete = fails("DELETE", r"h\.0")
    proxy.fault = lambda request: delete(request) or fails("POST", "delete")(request)
    with pytest.raises(Unreachable):
        store.delete_run("one")
    assert store.runs() == []
    proxy.fault = None
    other = a_plan(rows=5)
    write(store.write_run("one", other), other.units())
    assert store.verify_run("one") == []
    assert len(store.run("one")["h.0"][:]) == 5


def test_no_credentials(proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is named."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not"):
        ZarrStore(url, retries=0, timeout=2)


def test_wrong_credentials(proxy: Proxy, url: str) -> None:
    """A key that the server does not know is refused, with where to look."""
    proxy.fault = refuses("GET", "")
    with pytest.raises(Unreachable, match=rf"{url}.*refused; look at AWS_ACCESS_KEY_ID"):
        ZarrStore(url, retries=0, timeout=5)
    proxy.fault = refuses("PUT", "")
    with pytest.raises(NotWritable, match=rf"{url}.*refused; look at AWS_ACCESS_KEY_ID"):
        ZarrStore(url, retries=0, timeout=5).check_writable()


def test_bucket_that_is_not_there(proxy: Proxy) -> None:
    """It is said to be the bucket, and what to do."""
    with pytest.raises(Unreachable, match=r"s3://no-such-bucket/x.*no such bucket; make it first"):
        ZarrStore("s3://no-such-bucket/x", retries=0)


def test_endpoint_of_s3_alone(proxy: Proxy, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable that is for S3 alone leads to a server without TLS too."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{proxy.server_address[1]}")
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    assert ZarrStore(url, retries=0, timeout=5).runs() == []


def test_reading_a_run_that_was_deleted(proxy: Proxy, url: str) -> None:
    """Rows that were read before are gone, and no fill values."""
    plan, store = a_plan(), ZarrStore(url)
    write(store.write_run("one", plan), plan.units())
    rows = store.run("one")["h.0"]
    assert len(rows[:]) == 20
    ZarrStore(url).delete_run("one")
    with pytest.raises(DamagedStore, match=rf"{url}/runs/one/.*h\.0/c/1/0: this file is gone"):
        rows[8:12]
    with pytest.raises(DamagedStore, match="this file is gone"):
        rows[[1, 9]]


def check_begun_anew(store: ZarrStore) -> None:
    """See that the run is gone, and that one of another plan has nothing of it."""
    assert store.runs() == []
    other = a_plan(spec={"batch_size": 3})
    writer = store.write_run("one", other)
    assert writer.committed() == frozenset()
    write(writer, other.units())
    assert store.verify_run("one") == []


@pytest.mark.parametrize("moment", ["rows/token/zarr.json", "c/0", "commits/000000"])
def test_deletion_under_a_commit(proxy: Proxy, url: str, moment: str) -> None:
    """Whenever a run is deleted while a unit is committed, its writer is told, and a run of another
    plan in its place has nothing of it."""
    plan, store = a_plan(), ZarrStore(url)
    with store.write_run("one", plan).open_unit(plan.unit(0)) as writing:
        writing.append(rows_of(plan, 0, 8))
        method = "GET" if moment.endswith("json") else "PUT"
        proxy.fault = meanwhile(method, moment, lambda: ZarrStore(url).delete_run("one"))
        with pytest.raises(DeletedRun):
            writing.commit({})
    check_begun_anew(store)


def test_record_left_by_a_killed_writer(proxy: Proxy, url: str) -> None:
    """What a writer put after its run had been deleted is no part of the next run."""
    plan, store = a_plan(), ZarrStore(url)
    write(store.write_run("one", plan), plan.units())
    left = store.path / "runs/one/commits/000000.json"
    record = store._backend.files.read(left)
    store.delete_run("one")
    store._backend.files.write(left, record)  # and was killed before it looked again
    check_begun_anew(store)


def test_tensor_whose_removal_was_cut_short(proxy: Proxy, url: str) -> None:
    """It can be saved again, and is there then."""
    store = ZarrStore(url, retries=0, timeout=5)
    store.save_tensor("a", torch.ones(2))
    proxy.fault = fails("POST", r"\?delete")
    with pytest.raises(Unreachable):
        store.delete_tensor("a")
    proxy.fault = None
    assert store.list_tensors() == []
    store.save_tensor("a", torch.zeros(3))
    assert store.list_tensors() == ["a"]
    assert store.load_tensor("a").tolist() == [0, 0, 0]


def test_others_that_look_whether_they_can_write(proxy: Proxy, url: str) -> None:
    """What one process puts to see whether it can does not keep another from beginning."""
    looking, found = ZarrStore(url), []
    proxy.fault = meanwhile("POST", r"\?delete", lambda: found.append(ZarrStore(url).runs()))
    looking.check_writable()
    assert found == [[]]


def test_opening_one_run_of_many(proxy: Proxy, url: str) -> None:
    """How many requests it takes does not depend on how many runs there are."""
    plan, store = a_plan(rows=4), ZarrStore(url)

    def requests() -> int:
        proxy.seen.clear()
        store.run("run-0")
        store.write_run("run-0", plan)
        return len(proxy.seen)

    write(store.write_run("run-0", plan), plan.units())
    one = requests()
    for number in range(1, 4):
        store.write_run(f"run-{number}", plan)
    assert requests() == one
    with pytest.raises(UnknownRun, match="run-3"):
        store.run("run-9")


def test_one_run_by_several_writers_at_once(proxy: Proxy, url: str) -> None:
    """Whoever is first, each unit is committed once, and the run is whole."""
    plan = a_plan()

    def work(_: int) -> None:
        write(ZarrStore(url).write_run("one", plan), plan.units())

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(work, range(3)))
    store = ZarrStore(url)
    assert store.verify_run("one") == []
    assert same_bits(store.run("one")["h.1"][:], rows_of(plan, 0, 20).layers["h.1"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process forks on this system")
def test_process_that_forks(proxy: Proxy, url: str) -> None:
    """A forked process, which could wait for ever, is told at once, and how to start others."""
    plan, store = a_plan(), ZarrStore(url)
    write(store.write_run("one", plan), plan.units())
    context = multiprocessing.get_context("fork")
    told = context.Queue()
    process = context.Process(target=_look, args=(store, url, told))
    process.start()
    try:
        for _ in range(2):
            assert "start processes by 'spawn'" in told.get(timeout=60)
    finally:
        process.kill()
        process.join()
    assert store.runs() == ["one"]


def _look(store: ZarrStore, url: str, told: Any) -> None:
    for act in (store.runs, lambda: ZarrStore(url)):
        try:
            told.put(str(act()))
        except Unreachable as error:
            told.put(str(error))


def test_no_room_for_temporary_files(
    proxy: Proxy, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where shards cannot be laid down, that folder is what is named, and no object."""
    plan, store = a_plan(), ZarrStore(url)
    writer = store.write_run("one", plan)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16, limit[1]))
    try:
        with pytest.raises(NotWritable, match=rf"{tmp_path}.*unit 0 cannot be written"):
            write(writer, plan.units())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, ignored)
    write(store.write_run("one", plan), plan.units())
    assert store.verify_run("one") == []


def test_no_store_there(proxy: Proxy, url: str) -> None:
    """With `create=False` a store must be there; a bucket must be there in any case."""
    with pytest.raises(NoStore, match="no store at this prefix"):
        ZarrStore(url, create=False)
    with pytest.raises((Unreachable, NoStore)):
        ZarrStore("s3://no-such-bucket/x", create=False, retries=0)


@pytest.mark.parametrize(
    ("place", "match"),
    [
        ("s3://", "bucket is missing"),
        ("s3://b/../x", r"'\.\.'"),
        ("s3://b/x?y", r"'\?'"),
        ("s3://b:80/x", "a bucket has letters, digits"),
        ("s3://buc ket/x", "a bucket has letters, digits"),
        ("ftp://b/x", "one of s3://"),
        ("file://host/x", "no host"),
    ],
)
def test_url_that_cannot_be(place: str, match: str) -> None:
    """A URL that names no place is refused, with what is wrong."""
    with pytest.raises(NotAStore, match=match):
        ZarrStore(place)


def test_password_in_a_url() -> None:
    """Credentials do not belong there, and are not repeated."""
    with pytest.raises(NotAStore, match=r"s3://\.\.\.@bucket/x: .*by the environment") as raised:
        ZarrStore("s3://me:secret@bucket/x")
    assert "secret" not in str(raised.value)
