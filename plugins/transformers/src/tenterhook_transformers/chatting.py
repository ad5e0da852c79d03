"""Messages that a model answers, and forwards over messages."""

from collections.abc import Mapping, Sequence
from typing import Any

from tenterhook_selections import Roles
from tenterhook_transformers import generation
from tenterhook_transformers.chat_roles import RenderedChat, rendered_chat
from tenterhook_transformers.chat_template import conversations_of
from tenterhook_transformers.tokenized_model import TokenizedModel


def chat(
    model: TokenizedModel,
    messages: Any,
    *,
    template_kwargs: Mapping[str, Any] | None = None,
    tok_kwargs: Mapping[str, Any] | None = None,
    with_controllers: bool = True,
    **settings: Any,
) -> generation.Generation:
    """Have the assistant answer; see `LanguageModel.chat`."""
    chats = rendered(model, messages, goes_on=True, **(template_kwargs or {}))
    return generation.generate(
        model,
        [chat.text for chat in chats],
        tok_kwargs={"add_special_tokens": False, **(tok_kwargs or {})},
        with_controllers=with_controllers,
        roles=[chat.roles for chat in chats],
        **settings,
    )


def roles_of(
    model: TokenizedModel, messages: Any, *, template_kwargs: Mapping[str, Any] | None = None
) -> list[Roles]:
    """Return who says what in each conversation; see `LanguageModel.roles`."""
    return [chat.roles for chat in rendered(model, messages, **(template_kwargs or {}))]


def rendered(
    model: TokenizedModel, messages: Any, *, goes_on: bool = False, **settings: Any
) -> Sequence[RenderedChat]:
    """Return each conversation as text, with its roles.

    Raises `TypeError` for what are no messages, `NoChatTemplate`, `BadConversation`.
    """
    conversations = conversations_of(messages)
    if conversations is None:
        raise TypeError(
            f"{type(messages).__name__} is no conversation. Give messages, as "
            "[{'role': 'user', 'content': 'Hello'}], or a list of such lists; of text: "
            "lm.generate(prompts)."
        )
    ends = generation.eos_ids(model.module, {})
    own = getattr(model.tokenizer, "eos_token_id", None)
    ends |= set() if own is None else {int(own)}
    return [
        rendered_chat(model.tokenizer, each, goes_on=goes_on, ends=ends, **settings)
        for each in conversations
    ]
