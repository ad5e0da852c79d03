"""Runs of what requests captured: what is in them, who may have one, and what is refused."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tenterhook_store import open_store
from tenterhook_vllm import ServedPoints, Serving, Step, read_request, request_args
from tenterhook_vllm.admission import Admission
from tenterhook_vllm.answers import take_answers
from tenterhook_vllm.engine_errors import RequestFailed
from tenterhook_vllm.row_bytes import in_bytes
from tenterhook_vllm.served_runs import STORE, store_of

POINTS = ServedPoints({"resid_post.0": 2, "resid_post.1": 2}, torch.float32)
TEXTS = [[5, 6, 7, 8], [5, 6, 9, 3]]


def tables(selection: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what a worker has of two answers to one prompt, captured step by step."""
    asked = request_args(capture=["resid_post.1"], selection=selection, run=True)["tenterhook"]
    spec, serving, found = read_request(asked, POINTS), Serving(POINTS), []
    for at, text in enumerate(TEXTS):
        name = f"{at}_r"
        serving.add(name, text[:2], spec)
        for start, ids in ((0, text[:2]), (2, text[2:3])):
            with serving.step(Step.of([(name, start, ids)])):
                given = [[float(id), float(start + at)] for at, id in enumerate(ids)]
                serving.at("resid_post.1", torch.tensor(given))
        answer = serving.finish(name, text)
        rows = {point: in_bytes(each) for point, each in answer.rows.items()}
        found.append({
            "request": name, "ids": answer.ids, "positions": answer.positions.tolist(),
            "receipt": None, "rows": rows, "run": spec.run,
        })  # fmt: skip
    return found


def engine(place: Path | None, results: Any) -> Any:
    """Return an `LLM` that was started with a store at a place, and has these results."""
    more = {} if place is None else {STORE: str(place)}
    config = SimpleNamespace(additional_config=more)
    return SimpleNamespace(
        llm_engine=SimpleNamespace(vllm_config=config), vllm_config=config,
        collective_rpc=lambda *_, **__: [results],
    )  # fmt: skip


OUTPUT = SimpleNamespace(
    request_id="r",
    prompt_token_ids=[5, 6],
    outputs=[SimpleNamespace(token_ids=each[2:]) for each in TEXTS],
)


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        ({}, [(0, 0, 5), (0, 1, 6), (0, 2, 7), (1, 0, 5), (1, 1, 6), (1, 2, 9)]),
        ({"phase": "generated"}, [(0, 2, 7), (1, 2, 9)]),
    ],
    ids=["all", "generated"],
)
def test_each_row_stands_there_once(
    tmp_path: Path, selection: dict[str, Any], expected: list[tuple[int, int, int]]
) -> None:
    """With its token, its answer and its position in the text; the run is whole."""
    answers = take_answers(engine(tmp_path, tables(selection)), [OUTPUT])
    names = {each.run for each in answers if each is not None}
    store = open_store(tmp_path)
    assert store.runs() == [*names]
    run = store.run(store.runs()[0])
    assert run.is_complete
    assert store.verify_run(run.id) == []
    where = zip(run.documents.index[:], run.documents.position[:], run.tokens[:], strict=True)
    assert [tuple(map(int, each)) for each in where] == expected
    assert run["resid_post.1"][:].tolist() == [[id, at] for _, at, id in expected]
    assert [each.rows for each in answers if each is not None] == [{}, {}]


def test_an_answer_that_failed_leaves_no_run(tmp_path: Path) -> None:
    """Nor do those beside it."""
    results = [tables({})[0], {"request": "1_r", "error": "its hook failed"}]
    with pytest.raises(RequestFailed, match="Request '1_r': its hook failed"):
        take_answers(engine(tmp_path, results), [OUTPUT])
    assert not [*tmp_path.iterdir()]


def test_rows_that_do_not_fit_leave_no_run(tmp_path: Path) -> None:
    """What was begun is taken away again."""
    first, second = tables({})
    second["positions"] = second["positions"][:1]
    with pytest.raises(ValueError, match="planned as"):
        take_answers(engine(tmp_path, [first, second]), [OUTPUT])
    assert open_store(tmp_path).runs() == []


def test_over_http_the_answer_names_the_run(tmp_path: Path) -> None:
    """In place of rows; where the store lies is the server's affair."""
    from tenterhook_vllm.server import RequestAnswers

    results, found = tables({}), list[Any]()

    async def take(*_: Any, **__: Any) -> Any:
        return [results]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b'{"choices": []}'})

    async def receive() -> Any:
        body = json.dumps({"vllm_xargs": request_args(capture=["resid_post.1"], run=True)})
        return {"type": "http.request", "body": body.encode()}

    async def send(message: Any) -> None:
        found.append(message)

    client = engine(tmp_path, None)
    client.collective_rpc = take
    state = SimpleNamespace(state=SimpleNamespace(engine_client=client))
    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "headers": []}
    asyncio.run(RequestAnswers(app)({**scope, "app": state}, receive, send))
    first, second = json.loads(found[-1]["body"])["tenterhook"]
    assert [first["run"]] == [second["run"]] == open_store(tmp_path).runs()
    assert first["rows"] == {}
    assert str(tmp_path).encode() not in found[-1]["body"]


class TestAdmission:
    """What is looked at before the engine hears of a request."""

    @staticmethod
    def admitted(place: Path | None, params: Any, **table: Any) -> Any:
        """Admit a request with these parameters; return it."""
        model = SimpleNamespace(
            runner_type="generate", is_encoder_decoder=False, is_multimodal_model=False,
            architectures=["LlamaForCausalLM"], enforce_eager=True, dtype=torch.float32,
            hf_text_config=SimpleNamespace(hidden_size=2, num_hidden_layers=2, vocab_size=9),
        )  # fmt: skip
        none = SimpleNamespace(name="NONE")
        config = SimpleNamespace(
            use_v2_model_runner=False, model_config=model, speculative_config=None,
            parallel_config=SimpleNamespace(pipeline_parallel_size=1), kv_transfer_config=None,
            cache_config=SimpleNamespace(kv_sharing_fast_prefill=False),
            compilation_config=SimpleNamespace(mode=none, cudagraph_mode=none),
            additional_config={} if place is None else {STORE: str(place)},
        )  # fmt: skip
        params.extra_args, params.prompt_logprobs = request_args(**table), None
        request = SimpleNamespace(
            sampling_params=params, prompt_embeds=None, mm_features=None, request_id="r",
            prompt_token_ids=[5, 6], cache_salt=None,
        )  # fmt: skip
        Admission(config).admit(request)
        assert (store_of(config) is None) == (place is None)
        return request

    def test_without_a_store(self, tmp_path: Path) -> None:
        """A request that wants a run is refused, with the way out; with one it is let in."""
        params = SimpleNamespace(n=1, skip_reading_prefix_cache=None)
        with pytest.raises(ValueError, match=r"run: .* --additional-config .*tenterhook_store"):
            self.admitted(None, params, capture=["resid_post.1"], run=True)
        assert self.admitted(tmp_path, params, capture=["resid_post.1"], run=True)

    def test_several_answers(self) -> None:
        """Share a salt, so those that capture take nothing from the cache."""
        params = SimpleNamespace(n=3, skip_reading_prefix_cache=None)
        self.admitted(None, params, capture=["resid_post.1"])
        assert params.skip_reading_prefix_cache
        with pytest.raises(ValueError, match=r"n=3: .*; send 3 calls"):
            self.admitted(None, SimpleNamespace(n=3), capture=["resid_post.1"])
        assert self.admitted(None, SimpleNamespace(n=1), capture=["resid_post.1"])

    @pytest.mark.parametrize(
        ("table", "why"),
        [
            ({"run": True}, "run: there are no rows to write; give points to capture"),
            ({"run": 1, "capture": ["resid_post.1"]}, "run: expected true or false, not"),
            ({"run": "../x", "capture": ["resid_post.1"]}, r"run: .*'\.\./x'"),
        ],
        ids=["no capture", "number", "path"],
    )
    def test_what_run_may_not_say(self, table: Any, why: str) -> None:
        """It is true or false; nobody chooses a name or a place."""
        with pytest.raises(ValueError, match=why):
            read_request(table, POINTS)
