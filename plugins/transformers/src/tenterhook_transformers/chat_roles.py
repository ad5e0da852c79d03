"""Who says what in a text that a chat template made.

A template is a program, and only what it does tells where a message's content is. So the messages
are rendered once more with other words in the place of each content. Where those come to stand is
where the contents are, if the text with them put back is the text, to the letter; otherwise the
same is tried for each message by itself. What is then not found is refused.

Tokens have the roles of the characters that they cover:

- a message's content has its role, whatever stands around it has none;
- of the assistant, what the model itself says, or would have said: the content, marks of thinking
  before and within it, and the token that ends its turn;
- thinking is what comes after a mark that opens it, up to and with the mark that closes it, so that
  it can be told of each token when it is new; or a field of the message of its own.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import attrs

from tenterhook_selections import Roles
from tenterhook_transformers.chat_template import Conversation, render
from tenterhook_transformers.errors import BadConversation
from tenterhook_transformers.tokenizing import run_tokenizer

MARKS = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)
"""What opens and closes thinking in the templates that there are."""

THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking")
"""Fields of a message that hold its thinking."""

_SAME = {"developer": "system"}
"""Roles that go by another name in some templates."""


@attrs.frozen(eq=False)
class RenderedChat:
    """A conversation as text, and who says what in it."""

    text: str
    roles: Roles


@attrs.frozen
class _Piece:
    """Words of a message that come to stand in the text, if the template takes them."""

    message: int
    words: str
    role: str
    lead: str
    trail: str
    """White space before and after, at the edges of the field."""


@attrs.frozen
class _Span:
    """Where a piece stands in the text."""

    start: int
    stop: int
    piece: _Piece


class _CannotTell(Exception):
    """Says why the roles are not known."""


def rendered_chat(
    tokenizer: Any,
    messages: Conversation,
    *,
    goes_on: bool = False,
    ends: Collection[int] = (),
    **settings: Any,
) -> RenderedChat:
    """Return a conversation as the template renders it, with the roles of its tokens.

    `ends` are the ids that end a turn of the assistant. Roles that cannot be told are refused when
    they are asked for: see `Roles.refused`. Raises `NoChatTemplate`, `BadConversation`.
    """
    text = render(tokenizer, messages, goes_on=goes_on, **settings)
    fast = bool(getattr(tokenizer, "is_fast", False))
    found = run_tokenizer(
        tokenizer, [text], add_special_tokens=False, return_offsets_mapping=fast, verbose=False
    )
    ids: list[int] = found["input_ids"][0]
    offsets = found["offset_mapping"][0] if fast else None
    marks = _marks_of(tokenizer)
    thinks = _thinks(tokenizer, marks) if marks else None
    try:
        if offsets is None:
            kind = type(tokenizer).__name__
            raise _CannotTell(f"{kind} does not say where its tokens stand in a text; a fast does")
        extents = _extents(offsets)
        spans = _spans(tokenizer, messages, text, goes_on=goes_on, **settings)
        tail = _tail(tokenizer, messages, text, goes_on=goes_on, **settings)
        open_message = len(messages) - 1 if settings.get("continue_final_message") else None
        parts, turn_start = _parts(text, messages, spans, tail, marks, open_message)
        names = _names(extents, parts)
        _add_ends(names, ids, extents, text, parts, messages, ends, open_message)
    except _CannotTell as reason:
        nobody = [None] * len(ids)
        refused = Roles(ids=ids, names=nobody, refused=str(reason), spans=offsets)
        return RenderedChat(text, refused)
    turn = next((at for at, (_, stop) in enumerate(extents) if stop > turn_start), len(ids))
    roles = Roles(ids=ids, names=names, thinks=thinks, turn=turn, spans=offsets)
    return RenderedChat(text, roles)


# --- where the contents are


def _spans(tokenizer: Any, messages: Conversation, text: str, **settings: Any) -> list[_Span]:
    """Return where the pieces of all messages stand, in order."""
    for at, message in enumerate(messages):
        if message.get("tool_calls"):
            raise _CannotTell(f"message {at} has tool calls, which a template writes as it likes")
    every = range(len(messages))
    found = _find(tokenizer, messages, text, every, **settings)
    if found is not None:
        return found
    spans = []
    for at in every:
        alone = _find(tokenizer, messages, text, [at], **settings)
        if alone is None:
            role = messages[at]["role"]
            raise _CannotTell(
                f"the chat template makes something else of message {at} ({role!r}) than its "
                "content, or writes it twice"
            )
        spans += alone
    spans.sort(key=lambda span: span.start)
    if any(one.stop > two.start for one, two in pairwise(spans)):
        raise _CannotTell("the chat template writes one message into another")
    return spans


def _find(
    tokenizer: Any, messages: Conversation, text: str, which: Collection[int], **settings: Any
) -> list[_Span] | None:
    """Return where the pieces of some messages stand; `None` where that cannot be told."""
    other = _Replaced(messages, which, text)
    if not other.pieces:
        return []
    try:
        around = other.split(render(tokenizer, other.messages, **settings))
        numbers = [int(number) for number in around[1::2]]
        if len({*numbers}) < len(numbers):
            return None
        spans, built = [], around[0]
        for number, after in zip(numbers, around[2::2], strict=True):
            piece = other.pieces[number]
            spans.append(_Span(len(built), len(built) + len(piece.words), piece))
            built += piece.words + after
        if built != text:
            return None
        if any(piece.lead or piece.trail for piece in other.pieces):
            spans = _with_spaces(
                spans, around, other.split(render(tokenizer, other.bare, **settings))
            )
    except BadConversation:
        return None
    return spans


class _Replaced:
    """The messages with other words, each of its own, in the place of each piece."""

    def __init__(self, messages: Conversation, which: Collection[int], text: str) -> None:
        letters = {*text, *str(messages)}
        unused = (chr(at) for at in range(0xE000, 0xF8FF) if chr(at) not in letters)
        self._first, self._last = next(unused), next(unused)
        self.pieces: list[_Piece] = []
        self.messages: list[Mapping[str, Any]] = []
        self.bare: list[Mapping[str, Any]] = []
        """The same without white space at the edges of fields."""
        for at, message in enumerate(messages):
            chosen = at in which
            fields = self._fields(message, at) if chosen else {}
            self.messages.append({**message, **fields})
            self.bare.append({**message, **{name: _bare(value) for name, value in fields.items()}})

    def split(self, text: str) -> list[str]:
        """Return what stands around the pieces, and between each two the number of the piece."""
        return re.split(f"{self._first}(\\d+){self._last}", text)

    def _fields(self, message: Mapping[str, Any], at: int) -> dict[str, Any]:
        role = str(message["role"])
        found: dict[str, Any] = {}
        for name in THINKING_FIELDS:
            if isinstance(message.get(name), str):
                found[name] = self._words(message[name], at, "thinking")
        content = message.get("content")
        if isinstance(content, str):
            found["content"] = self._words(content, at, _SAME.get(role, role))
        elif isinstance(content, list | tuple):
            found["content"] = [
                {**part, "text": self._words(part["text"], at, _SAME.get(role, role))}
                if isinstance(part, Mapping) and isinstance(part.get("text"), str)
                else part
                for part in content
            ]
        return found

    def _words(self, value: str, at: int, role: str) -> str:
        """Return text with its words replaced; marks of thinking and white space stay."""
        parts = [value] if role != "assistant" else _ANY_MARK.split(value)
        made = []
        for number, part in enumerate(parts):
            words = part.strip()
            if number % 2 or not words:  # a mark
                made.append(part)
                continue
            lead, trail = part[: part.index(words[0])], part[len(part.rstrip()) :]
            made.append(f"{lead}{self._first}{len(self.pieces)}{self._last}{trail}")
            self.pieces.append(
                _Piece(
                    at,
                    words,
                    role,
                    lead if number == 0 else "",
                    trail if number == len(parts) - 1 else "",
                )
            )
        return "".join(made)


_ANY_MARK = re.compile("(" + "|".join(re.escape(mark) for pair in MARKS for mark in pair) + ")")


def _bare(value: Any) -> Any:
    if isinstance(value, str):
        return value.strip()
    return [
        {**part, "text": part["text"].strip()}
        if isinstance(part, Mapping) and isinstance(part.get("text"), str)
        else part
        for part in value
    ]


def _with_spaces(spans: list[_Span], around: list[str], bare: list[str]) -> list[_Span]:
    """Return the spans with the white space at the edges of their fields, where it was kept.

    `around` is what stands around the pieces, `bare` the same where the fields have none.
    """
    if around[1::2] != bare[1::2]:
        return spans
    before, after = [0] * len(spans), [0] * len(spans)
    for at, (one, other) in enumerate(zip(around[::2], bare[::2], strict=True)):
        trail = spans[at - 1].piece.trail if at else ""
        lead = spans[at].piece.lead if at < len(spans) else ""
        for left, right in ((trail, lead), (trail, ""), ("", lead)):
            if one == left + other + right and one != other:
                if at:
                    after[at - 1] = len(left)
                if at < len(spans):
                    before[at] = len(right)
                break
    return [
        _Span(span.start - left, span.stop + right, span.piece)
        for span, left, right in zip(spans, before, after, strict=True)
    ]


# --- which characters have which role

_Part = tuple[int, int, str, int]
"""Start, stop, role and number of the message."""


def _tail(tokenizer: Any, messages: Conversation, text: str, **settings: Any) -> int:
    """Return where what asks the assistant to speak begins; the text's end where nothing does."""
    if not settings.pop("goes_on", False) or settings.get("continue_final_message"):
        return len(text)
    without = render(tokenizer, messages, **settings)
    return len(without) if text.startswith(without) else len(text)


def _parts(
    text: str,
    messages: Conversation,
    spans: Sequence[_Span],
    tail: int,
    marks: Mapping[str, str],
    open_message: int | None,
) -> tuple[list[_Part], int]:
    """Return the parts of the text that have roles, and where the turn that goes on begins."""
    parts: list[_Part] = []
    turn = len(text)
    for at, message in enumerate(messages):
        own = [span for span in spans if span.piece.message == at]
        if message["role"] != "assistant":
            parts += [(span.start, span.stop, span.piece.role, at) for span in own]
        elif own:
            start = _begin_of_thinking(text, own[0].start, marks)
            parts += _assistant_parts(text, start, own, marks, at)
            turn = start if at == open_message else turn
    opened = next((text.find(mark, tail) for mark in marks if text.find(mark, tail) >= 0), -1)
    if opened >= 0:
        parts += [(*part, len(messages)) for part in _scan(text, opened, len(text), marks)]
        turn = opened
    return parts, turn


def _begin_of_thinking(text: str, start: int, marks: Mapping[str, str]) -> int:
    """Return where the assistant's part begins that has its first words at `start`."""
    before = text[:start].rstrip()
    for opening, closing in marks.items():
        inside = before.removesuffix(closing).rstrip() if before.endswith(closing) else before
        if inside.endswith(opening):
            return len(inside) - len(opening)
    return start


def _assistant_parts(
    text: str, start: int, spans: Sequence[_Span], marks: Mapping[str, str], at: int
) -> Iterator[_Part]:
    """Yield the parts of one message of the assistant, from `start` on."""
    scanned = list(_scan(text, start, spans[-1].stop, marks))
    before = start
    for span in spans:
        words = re.split("|".join(map(re.escape, _flat(marks))) or "$.", text[before : span.start])
        if before == start or not "".join(words).strip():
            yield from ((*part, at) for part in _within(scanned, before, span.start))
        if span.piece.role == "thinking":
            yield span.start, span.stop, "thinking", at
        else:
            yield from ((*part, at) for part in _within(scanned, span.start, span.stop))
        before = span.stop


def _scan(
    text: str, start: int, stop: int, marks: Mapping[str, str]
) -> Iterator[tuple[int, int, str]]:
    """Yield the parts of what the assistant says that are thinking, and that are not."""
    role, at = "assistant", start
    if marks:
        for mark in re.compile("|".join(map(re.escape, _flat(marks)))).finditer(text, start, stop):
            yield at, mark.end(), role
            role, at = "thinking" if mark[0] in marks else "assistant", mark.end()
    yield at, stop, role


def _within(
    parts: Sequence[tuple[int, int, str]], start: int, stop: int
) -> Iterator[tuple[int, int, str]]:
    for first, last, role in parts:
        if max(first, start) < min(last, stop):
            yield max(first, start), min(last, stop), role


def _flat(marks: Mapping[str, str]) -> list[str]:
    return [*marks, *marks.values()]


def _marks_of(tokenizer: Any) -> dict[str, str]:
    """Return the marks of thinking that a tokenizer or its template knows, closing by opening."""
    known = str(tokenizer.chat_template) + " ".join(tokenizer.get_added_vocab())
    return {opening: closing for opening, closing in MARKS if closing in known}


def _thinks(tokenizer: Any, marks: Mapping[str, str]) -> Callable[[Sequence[int]], Sequence[bool]]:
    """Return what says of each token of a turn, given its ids, whether it is thinking."""

    def is_open(ids: Sequence[int]) -> bool:
        text: str = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        opened = max(text.rfind(mark) for mark in marks)
        return opened >= 0 and opened > max(text.rfind(mark) for mark in marks.values())

    def thinks(ids: Sequence[int]) -> Sequence[bool]:
        text = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
        if not any(mark in text for mark in marks):
            return [False] * len(ids)
        return [is_open(ids[:at]) for at in range(len(ids))]

    return thinks


# --- from characters to tokens


def _extents(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return which characters each token covers, white space that a tokenizer leaves out too."""
    found, last = [], 0
    for start, stop in offsets:
        found.append((min(start, last) if stop >= last else start, stop))
        last = max(last, stop)
    return found


def _names(extents: Sequence[tuple[int, int]], parts: list[_Part]) -> list[str | None]:
    """Return the role of each token: that of the first character that has one.

    Raises `_CannotTell` where a token has characters of two messages.
    """
    parts.sort()
    names: list[str | None] = []
    at = 0
    for start, stop in extents:
        while at < len(parts) and parts[at][1] <= start:
            at += 1
        over = []
        for part in parts[at:]:
            if part[0] >= stop:
                break
            if part[1] > start:
                over.append(part)
        if len({message for *_, message in over}) > 1:
            raise _CannotTell(
                f"one token has characters of messages {over[0][3]} and {over[-1][3]}"
            )
        names.append(over[0][2] if over else None)
    return names


def _add_ends(
    names: list[str | None],
    ids: Sequence[int],
    extents: Sequence[tuple[int, int]],
    text: str,
    parts: Sequence[_Part],
    messages: Conversation,
    ends: Collection[int],
    open_message: int | None,
) -> None:
    """Give the token that ends a turn of the assistant to it."""
    last = {part[3]: part[1] for part in sorted(parts)}
    for message, stop in last.items():
        if message == open_message or message == len(messages):
            continue
        if messages[message]["role"] != "assistant":
            continue
        at = next((at for at, extent in enumerate(extents) if extent[0] >= stop), len(ids))
        while at < len(ids) and ids[at] not in ends and not text[slice(*extents[at])].strip():
            at += 1
        if at < len(ids) and ids[at] in ends:
            names[at] = "assistant"
