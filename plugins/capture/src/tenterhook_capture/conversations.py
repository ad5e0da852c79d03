"""Conversations as documents: lists of messages, kept as the text of their JSON.

So they are read lazily, counted and told apart as texts are. What a model reads is what its
tokenizer's chat template makes of them.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tenterhook_capture.document_errors import UnreadableData

MESSAGES = "messages"
"""The field of records that holds conversations."""


def is_conversation(value: Any) -> bool:
    """Whether it is a list of messages, each of them a mapping with a `role`."""
    return (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(each, Mapping) and "role" in each for each in value)
    )


def conversation_text(value: Any, where: str) -> str:
    """Return a conversation as JSON; what is no text already must be one.

    Raises `UnreadableData`, which says where.
    """
    if not is_conversation(value):
        kind = type(value).__name__
        raise UnreadableData(
            where, f"this {kind} is no conversation; give messages, each with role and content"
        )
    try:
        # Tables of records have every field in every message, missing ones as None.
        messages = [{key: each[key] for key in each if each[key] is not None} for each in value]
        return json.dumps(messages, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise UnreadableData(where, f"these messages are no JSON: {error}") from None


def conversations(texts: Iterable[str]) -> Iterator[list[dict[str, Any]]]:
    """Yield the conversations that texts of JSON are."""
    for text in texts:
        yield json.loads(text)
