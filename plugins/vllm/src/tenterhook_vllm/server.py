"""What requests have to show, in the answers of vLLM's OpenAI-style server: a middleware of it.

    vllm serve MODEL --enforce-eager --middleware tenterhook_vllm.server.RequestAnswers

A request that asks for something in `vllm_xargs` has its rows and receipts under `tenterhook` in
the answer, one for each choice; in a stream they come in a last chunk without choices. Where one
has nothing to show for itself, as a change that matched no token, the answer is an error with
status 422. Other requests pass as they are. Access is the server's to check: the answer is asked
for by a name that the middleware makes up for each request, and nobody else knows.
"""

import asyncio
import base64
import json
import uuid
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from tenterhook.one_line import error_line
from tenterhook_vllm.admission import ID, NAME
from tenterhook_vllm.engine_steps import KEY
from tenterhook_vllm.served_runs import asks_for_run, store_of, write_answers

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

PATHS = ("/v1/completions", "/v1/chat/completions")
"""Where requests with `vllm_xargs` come in."""

LARGEST = 1 << 26
"""Bytes of a request's body that are looked at; vLLM is given larger ones as they are."""


class RequestAnswers:
    """An ASGI middleware; vLLM adds it to its server."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Pass a call on; add what its request has to show."""
        path = str(scope.get("path", ""))
        if scope["type"] != "http" or scope.get("method") != "POST" or path not in PATHS:
            await self.app(scope, receive, send)
            return
        messages, raw = await _body(receive)
        asked = None if raw is None else _asked(raw)
        if asked is None:
            await self.app(scope, _replayed(messages, receive), send)
            return
        key = uuid.uuid4().hex
        for name in (ID, NAME):
            asked["vllm_xargs"].pop(name, None)
        asked["vllm_xargs"][ID] = key
        if not asked.get("echo"):
            asked["return_token_ids"] = True
        changed = json.dumps(asked).encode()
        length = (b"content-length", str(len(changed)).encode())
        headers = [each for each in scope["headers"] if each[0].lower() != length[0]]
        inner = {**scope, "headers": [*headers, length]}
        body = [{"type": "http.request", "body": changed, "more_body": False}]
        engine = scope["app"].state.engine_client
        answering = _Answering(send, lambda texts: _shown(engine, key, texts))
        try:
            await self.app(inner, _replayed(body, receive), answering.send)
        finally:
            if not answering.is_over:  # who asked went away, or was refused
                await _take(engine, key, None)


async def _body(receive: Receive) -> tuple[list[Message], bytes | None]:
    """Return the messages of a body, and the body where it has ended and is not too large."""
    messages, parts, size = [], [], 0
    while True:
        message = await receive()
        messages.append(message)
        if message["type"] != "http.request":
            return messages, None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if not message.get("more_body", False):
            return messages, b"".join(parts)
        if size > LARGEST:
            return messages, None


def _asked(raw: bytes) -> dict[str, Any] | None:
    """Return a body that asks for something; `None` for another, mistaken ones too."""
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    xargs = body.get("vllm_xargs") if isinstance(body, dict) else None
    return body if isinstance(xargs, dict) and xargs.get(KEY) is not None else None


def _replayed(messages: Sequence[Message], receive: Receive) -> Receive:
    """Return what gives these messages first, and then those that come."""
    left = list(messages)

    async def next_message() -> Message:
        return left.pop(0) if left else await receive()

    return next_message


async def _take(engine: Any, key: str, texts: Any) -> list[dict[str, Any]]:
    results = await engine.collective_rpc("tenterhook_take", args=(key, texts))
    return next((each for each in results if each), [])


async def _shown(engine: Any, key: str, texts: Any) -> list[dict[str, Any]]:
    """Return what a call has to show, its rows written where it asks, unless anything is wrong."""
    tables = await _take(engine, key, texts)
    if any("error" in each for each in tables) or not asks_for_run(tables):
        return tables
    place = str(store_of(engine.vllm_config))
    # In a thread: others are answered meanwhile.
    name = await asyncio.to_thread(write_answers, place, tables)
    return [{**each, "rows": {}, "run": name} for each in tables]


class _Answering:
    """The answer to one request, on its way out."""

    def __init__(self, send: Send, take: Callable[[Any], Awaitable[list[dict[str, Any]]]]) -> None:
        self._out, self._take = send, take
        self._start: Message | None = None
        self._is_stream = False
        self._held = b""
        self._texts = _Texts()
        self.is_over = False
        """Whether what the request has to show was taken."""

    async def send(self, message: Message) -> None:
        """Take one message of the answer; send it, or hold it back until it is whole."""
        if message["type"] == "http.response.start":
            headers = {k.lower(): v for k, v in message.get("headers", ())}
            self._is_stream = b"event-stream" in headers.get(b"content-type", b"")
            self._start = message
            if self._is_stream or message["status"] != 200:
                await self._out(message)
        elif self._start is None or (self._start["status"] != 200 and not self._is_stream):
            await self._out(message)
        elif self._is_stream:
            await self._streamed(message)
        else:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self._whole(self._start)

    async def _whole(self, start: Message) -> None:
        answer = json.loads(self._held)
        self._texts.read(answer)
        shown, error = await self._shown()
        status = 200
        if error is not None:
            answer, status = _error(error), 422
        else:
            answer[KEY] = shown
        body = json.dumps(answer).encode()
        length = (b"content-length", str(len(body)).encode())
        headers = [each for each in start.get("headers", ()) if each[0].lower() != length[0]]
        await self._out({**start, "status": status, "headers": [*headers, length]})
        await self._out({"type": "http.response.body", "body": body, "more_body": False})

    async def _streamed(self, message: Message) -> None:
        *events, self._held = (self._held + message.get("body", b"")).split(b"\n\n")
        for event in events:
            said = event.removeprefix(b"data: ")
            if said.strip() == b"[DONE]":
                await self._chunk(await self._last())
            else:
                self._texts.read_chunk(said)
            await self._event(event)
        if not message.get("more_body", False):
            body = {"type": "http.response.body", "body": self._held, "more_body": False}
            await self._out(body)

    async def _last(self) -> dict[str, Any]:
        shown, error = await self._shown()
        if error is not None:
            return _error(error)
        return {**self._texts.head, "choices": [], KEY: shown}

    async def _chunk(self, table: dict[str, Any]) -> None:
        await self._event(b"data: " + json.dumps(table).encode())

    async def _event(self, event: bytes) -> None:
        body = event + b"\n\n"
        await self._out({"type": "http.response.body", "body": body, "more_body": True})

    async def _shown(self) -> tuple[list[dict[str, Any]], str | None]:
        """Return what each choice has to show; and what is wrong, if anything is."""
        self.is_over = True
        try:
            tables = await self._take(self._texts.whole())
        except Exception as error:  # noqa: BLE001 - the answer says it to whoever asked
            return [], error_line(error)
        wrong = [table["error"] for table in tables if "error" in table]
        if wrong or not tables:
            return [], wrong[0] if wrong else "the engine knows nothing of this request"
        return [_plain(table, at) for at, table in enumerate(tables)], None


class _Texts:
    """The token ids of an answer's choices, as they come."""

    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        """What every chunk of a stream has."""
        self._prompts: dict[int, list[int]] = {}
        self._answers: dict[int, list[int]] = {}

    def read(self, answer: dict[str, Any]) -> None:
        """Take note of the choices of an answer, or of a chunk."""
        shared = answer.get("prompt_token_ids")
        for choice in answer.get("choices") or ():
            at = choice.get("index", 0)
            prompt = choice.get("prompt_token_ids") or shared
            if prompt is not None:
                self._prompts[at] = prompt
                shared = prompt if shared is None and at == 0 else shared
            self._answers.setdefault(at, []).extend(choice.get("token_ids") or ())

    def read_chunk(self, said: bytes) -> None:
        """Take note of an event of a stream."""
        try:
            chunk = json.loads(said)
        except ValueError:
            return
        if isinstance(chunk, dict) and "choices" in chunk:
            kept = ("id", "object", "created", "model")
            self.head = {name: chunk[name] for name in kept if name in chunk}
            self.read(chunk)

    def whole(self) -> list[list[int]] | None:
        """Return each choice's prompt and answer; `None` where the server did not tell them."""
        if not self._answers or not all(at in self._prompts for at in self._answers):
            return None
        return [[*self._prompts[at], *ids] for at, ids in sorted(self._answers.items())]


def _plain(table: dict[str, Any], index: int) -> dict[str, Any]:
    rows = {
        point: {**each, "data": base64.b64encode(each["data"]).decode()}
        for point, each in table["rows"].items()
    }
    return {
        "index": index,
        "receipt": table["receipt"],
        "positions": table["positions"],
        "rows": rows,
        **({"run": table["run"]} if table.get("run") else {}),
    }


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "UnprocessableEntityError", "code": 422}}
