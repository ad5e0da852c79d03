"""Stores in Azure's and Google's object stores and in S3 through fsspec, on emulators.

Each is skipped where its emulator, or what talks to it, is not installed: `azurite-blob` (npm,
`azurite`), `fake-gcs-server` in the path, and s3fs, adlfs or gcsfs.
"""

import base64
import email.utils
import hashlib
import hmac
import importlib.util
import json
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tenterhook_store import DamagedStore, OtherRun, Unreachable
from tenterhook_store.testing import a_plan, rows_of, same_bits, write
from tenterhook_zarr import ZarrStore

ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Azurite's account, which everybody knows."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def started(command: list[str], port: int) -> "subprocess.Popen[bytes]":
    """Start a server; return once it listens."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with socket.socket() as looking:
            if looking.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"{command[0]} does not listen")


@pytest.fixture(scope="module")
def azurite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run Azure's emulator with a container in it; return its address."""
    program = shutil.which("azurite-blob")
    if program is None:
        pytest.skip("azurite is not installed")
    port, folder = free_port(), tmp_path_factory.mktemp("azurite")
    options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--location"]
    process = started([program, *options, str(folder), "--blobPort", str(port)], port)
    try:
        make_container(f"http://127.0.0.1:{port}", "bucket")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def make_container(address: str, name: str) -> None:
    """Make a container, as Azure's shared keys are used."""
    headers = {"x-ms-date": email.utils.formatdate(usegmt=True), "x-ms-version": "2021-08-06"}
    said = "".join(f"{key}:{value}\n" for key, value in headers.items())
    resource = f"/{ACCOUNT}/{ACCOUNT}/{name}\nrestype:container"
    text = "PUT" + "\n" * 12 + said + resource
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    headers["Authorization"] = f"SharedKey {ACCOUNT}:{base64.b64encode(digest).decode()}"
    url = f"{address}/{ACCOUNT}/{name}?restype=container"
    urllib.request.urlopen(urllib.request.Request(url, method="PUT", headers=headers)).close()


@pytest.fixture(scope="module")
def google() -> Iterator[str]:
    """Run an emulator of Google's with a bucket in it; return its address."""
    program = shutil.which("fake-gcs-server")
    if program is None:
        pytest.skip("fake-gcs-server is not installed")
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    options = ["-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port)]
    process = started([program, *options, "-external-url", address], port)
    try:
        body = json.dumps({"name": "bucket"}).encode()
        made = urllib.request.Request(f"{address}/storage/v1/b?project=p", body, method="POST")
        made.add_header("Content-Type", "application/json")
        urllib.request.urlopen(made).close()
        yield address
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """Run a server that does what S3 does, with a bucket in it; return its address."""
    pytest.importorskip("flask")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    made = urllib.request.Request(f"http://{host}:{port}/bucket", method="PUT")
    urllib.request.urlopen(made).close()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["az by obstore", "az by fsspec", "gs by fsspec", "s3 by fsspec"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a new prefix of an emulator, and have the environment lead there."""
    scheme, _, by = request.param.split()
    if by == "obstore":
        pytest.importorskip("obstore")
    else:
        module = {"az": "adlfs", "gs": "gcsfs", "s3": "s3fs"}[scheme]
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
        monkeypatch.setitem(sys.modules, "obstore", None)
        monkeypatch.delitem(sys.modules, "tenterhook_zarr._obstore", raising=False)
    address = request.getfixturevalue({"az": "azurite", "gs": "google", "s3": "s3"}[scheme])
    connection = (
        f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};"
        f"BlobEndpoint={address}/{ACCOUNT};"
    )
    environment = {
        "az": {
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURITE_BLOB_STORAGE_URL": address,
            "AZURE_STORAGE_CONNECTION_STRING": connection,
        },
        "gs": {"STORAGE_EMULATOR_HOST": address},
        "s3": {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        },
    }
    for name, value in environment[scheme].items():
        monkeypatch.setenv(name, value)
    return f"{scheme}://bucket/{secrets.token_hex(4)} &=%é"


def test_run(url: str) -> None:
    """A run is written, read, verified and deleted; tensors and notes too; names may be odd."""
    plan = a_plan(layers=[("h.0", 3, "float32"), ("é %/[x]", 5, "bfloat16")])
    store = ZarrStore(url, timeout=20)
    writer = store.write_run("one & é", plan)
    write(writer, plan.units())
    writer.finish()
    store.set_attribute("one & é", "tags", ["a"])
    store.save_tensor("a/b", torch.arange(3))
    again = ZarrStore(url, create=False)
    run = again.run("one & é")
    for layer in run.layers:
        assert same_bits(run[layer][:], rows_of(plan, 0, 20).layers[layer])
    assert run["h.0"][[3, 19]].tolist() == rows_of(plan, 0, 20).layers["h.0"][[3, 19]].tolist()
    assert (run.attributes, again.list_tensors()) == ({"tags": ["a"]}, ["a/b"])
    assert again.verify_run("one & é") == []
    with pytest.raises(OtherRun):
        again.write_run("one & é", a_plan(rows=21))
    again.delete_run("one & é")
    assert again.runs() == []
    with pytest.raises(DamagedStore, match="this file is gone"):
        run["h.0"][:]


def test_one_of_several_is_first(url: str) -> None:
    """Of those that put what is not there at one moment, one does, and its content stays."""
    files = ZarrStore(url, timeout=20)._backend.files
    with ThreadPoolExecutor(4) as pool:
        for step in range(5):
            path = ZarrStore(url).path / f"tensors/{step}"
            first = list(pool.map(lambda n, p=path: files.write_once(p, bytes([n])), range(4)))
            assert sum(first) == 1
            assert files.read(path) == bytes([first.index(True)])


def test_several_writers(url: str) -> None:
    """Several that write one run at once leave a whole one."""
    plan = a_plan()
    with ThreadPoolExecutor(2) as pool:
        stores = [ZarrStore(url) for _ in range(2)]
        list(pool.map(lambda store: write(store.write_run("one", plan), plan.units()), stores))
    assert ZarrStore(url).verify_run("one") == []
    assert same_bits(ZarrStore(url).run("one")["h.1"][:], rows_of(plan, 0, 20).layers["h.1"])


def test_bucket_that_is_not_there(url: str) -> None:
    """Nothing is kept, and an error says why."""
    place = url.replace("://bucket/", "://no-such-bucket/")
    with pytest.raises(
        Unreachable, match=r"no-such-bucket.*(there is no such bucket|does not exist)"
    ):
        ZarrStore(place, retries=0, timeout=10).save_tensor("a", torch.ones(2))
