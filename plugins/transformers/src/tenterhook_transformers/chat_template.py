"""Conversations, and the text that a tokenizer's chat template makes of them."""

from collections.abc import Mapping, Sequence
from typing import Any

from tenterhook_transformers.errors import (
    BadConversation,
    ModelWithoutTokenizer,
    NoChatTemplate,
)

Conversation = Sequence[Mapping[str, Any]]
"""Messages, each with its `role` and its `content`, as `apply_chat_template` takes them."""


def conversations_of(given: Any) -> list[Conversation] | None:
    """Return the conversations, of which one is a list of messages; `None` of anything else."""
    if not isinstance(given, list | tuple) or not given:
        return None
    if all(map(_is_message, given)):
        return [given]
    if all(isinstance(each, list | tuple) and each and _is_message(each[0]) for each in given):
        return list(given)
    return None


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value


def render(
    tokenizer: Any, messages: Conversation, *, goes_on: bool = False, **settings: Any
) -> str:
    """Return the text that the template makes of the messages, its special tokens included.

    With `goes_on` it ends where the assistant speaks next. `settings` go to the template, as
    `tools` or `enable_thinking`. Raises `NoChatTemplate`, `BadConversation`,
    `ModelWithoutTokenizer`.
    """
    if tokenizer is None:
        raise ModelWithoutTokenizer
    if not getattr(tokenizer, "chat_template", None):
        raise NoChatTemplate
    from jinja2 import TemplateError

    chosen = {"add_generation_prompt": goes_on, **settings}
    if settings.get("continue_final_message"):
        chosen["add_generation_prompt"] = False
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, **chosen)
    except (TemplateError, TypeError, KeyError, ValueError) as error:
        raise BadConversation(str(error) or type(error).__name__) from error
    return str(text)
