"""What can be told where vLLM is not: what is missing, which engines are refused, answers sent."""

import asyncio
import json
from collections.abc import Mapping
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tenterhook_vllm.answers import read_answer
from tenterhook_vllm.engine_errors import NoVllm, ProbeFailed, RequestFailed, UnsupportedVllm
from tenterhook_vllm.joins import register
from tenterhook_vllm.refusals import family_for
from tenterhook_vllm.row_bytes import in_bytes, rows_of
from tenterhook_vllm.server import RequestAnswers


def engine(**changes: Any) -> Any:
    """Return the settings of an engine that is not refused, but for these."""
    settings: dict[str, Any] = {
        "use_v2_model_runner": False,
        "enforce_eager": True,
        "pipeline_parallel_size": 1,
        "speculative_config": None,
        "kv_transfer_config": None,
        "kv_sharing_fast_prefill": False,
        "runner_type": "generate",
        "is_multimodal_model": False,
        **changes,
    }
    one = SimpleNamespace(**settings, is_encoder_decoder=False, architectures=["LlamaForCausalLM"])
    none = SimpleNamespace(mode=SimpleNamespace(name="NONE"), cudagraph_mode="NONE")
    one.parallel_config = one.model_config = one.cache_config = one
    one.compilation_config = none
    return one


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is here")
def test_without_vllm_it_is_said_how_to_install_it() -> None:
    """The distribution asks for none."""
    with pytest.raises(NoVllm, match=r"pip install 'tenterhook-vllm\[vllm\]'"):
        register()


def test_an_engine_as_it_should_be() -> None:
    """Its model's family is known."""
    assert family_for(engine()).is_pair


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"use_v2_model_runner": True}, "VLLM_USE_V2_MODEL_RUNNER=0"),
        ({"enforce_eager": False}, "--enforce-eager"),
        ({"pipeline_parallel_size": 2}, "pipeline_parallel_size=2"),
        ({"speculative_config": object()}, "leave out speculative_config"),
        ({"kv_transfer_config": object()}, "leave out kv_transfer_config"),
        ({"kv_sharing_fast_prefill": True}, "leaves layers out"),
        ({"runner_type": "pooling"}, "'pooling' and not to generate"),
        ({"is_multimodal_model": True}, "more than one sequence"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, Mapping) else "",
)
def test_engines_that_are_refused(changes: Mapping[str, Any], why: str) -> None:
    """Each by the name of what cannot be, with the way out."""
    with pytest.raises(UnsupportedVllm, match=why):
        family_for(engine(**changes))


def test_a_trial_that_went_wrong() -> None:
    """It says which vLLM, and what does not add up."""
    error = ProbeFailed(["mlp_out.1 is missing"], "0.99")
    with pytest.raises(UnsupportedVllm, match=r"trial .* vLLM 0.99 .*mlp_out.1 is missing"):
        raise error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [0, 3])
def test_rows_pass_between_processes(dtype: torch.dtype, count: int) -> None:
    """To the bit, also where there are none."""
    rows = torch.arange(count * 2).reshape(count, 2).to(dtype)
    found = rows_of(in_bytes(rows))
    assert found.dtype == dtype
    assert torch.equal(found, rows)


def test_an_answer_with_an_error() -> None:
    """It is raised, and says whose it is."""
    with pytest.raises(RequestFailed, match="Request 'r1': its hook failed"):
        read_answer({"request": "r1", "error": "its hook failed"})


class Engine:
    """Gives one result, to whoever asks by the right key."""

    def __init__(self, result: dict[str, Any]) -> None:
        self.result = result
        self.calls: list[Any] = []

    async def collective_rpc(self, method: str, args: tuple[Any, ...]) -> list[list[Any]]:
        """Return the result once."""
        self.calls.append(args)
        return [[self.result]] if len(self.calls) == 1 else [[]]


def answered(body: bytes, result: dict[str, Any]) -> tuple[int, Any, Engine, dict[str, Any]]:
    """Send a body through the middleware; return status, answer, engine, what the server got."""
    engine, got = Engine(result), dict[str, Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        got["body"] = message["body"]
        table = {"choices": [{"index": 0, "prompt_token_ids": [5, 6], "token_ids": [7]}]}
        raw = json.dumps(table).encode()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": raw, "more_body": False})

    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    state = SimpleNamespace(state=SimpleNamespace(engine_client=engine))
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    asyncio.run(RequestAnswers(app)({**scope, "app": state}, receive, send))
    answer = json.loads(b"".join(each.get("body", b"") for each in sent))
    return sent[0]["status"], answer, engine, got


ASKED = json.dumps({"vllm_xargs": {"tenterhook": "{}", "tenterhook_id": "another's"}}).encode()
SHOWN = {"receipt": {"tokens": 2}, "positions": [0], "rows": {"a.0": in_bytes(torch.ones(1, 2))}}


def test_what_a_request_has_to_show_is_in_its_answer() -> None:
    """Asked for by a name that nobody else knows, with the ids of the text."""
    status, answer, engine, got = answered(ASKED, SHOWN)
    assert status == 200
    assert answer["tenterhook"][0]["receipt"] == {"tokens": 2}
    assert answer["tenterhook"][0]["rows"]["a.0"]["shape"] == [1, 2]
    ((key, texts),) = engine.calls
    assert texts == [[5, 6, 7]]
    assert json.loads(got["body"])["vllm_xargs"]["tenterhook_id"] == key != "another's"


def test_nothing_to_show_is_an_error() -> None:
    """With a status of its own, though there is an answer."""
    status, answer, _, _ = answered(ASKED, {"error": "changed no token"})
    assert status == 422
    assert answer["error"]["message"] == "changed no token"


@pytest.mark.parametrize("body", [b"{}", b"[1]", b"{", b'{"vllm_xargs": {"other": 1}}'])
def test_other_requests_pass_as_they_are(body: bytes) -> None:
    """To the byte; nobody is asked for anything."""
    status, answer, engine, got = answered(body, SHOWN)
    assert (status, got["body"], engine.calls) == (200, body, [])
    assert "tenterhook" not in answer
