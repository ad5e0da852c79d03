"""Each token's role, against contents that occur once in a text and are looked for in it."""

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tenterhook_transformers.chat_roles import rendered_chat
from tenterhook_transformers.errors import BadConversation, NoChatTemplate

WORDS = st.lists(
    st.text("abcdefgh .,!?()[]{}<>|/\n\t'\"0123456789äßλ中\U0001f600", min_size=1, max_size=12),
    min_size=1,
    max_size=3,
)


TEMPLATES = {
    "chatml": (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "default system": (
        "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are kind.<|im_end|>\n"
        "{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
    "llama": (
        "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
        "{{ m.content | trim }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "mistral": (
        "{% if messages[0].role == 'system' %}{% set sys = messages[0].content + '\n\n' %}"
        "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}"
        "{% endif %}{{ bos_token }}{% for m in rest %}"
        "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if m.role == 'user' %}[INST] {% if loop.last %}{{ sys }}{% endif %}{{ m.content }}"
        " [/INST]{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "gemma": (
        "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
        "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
        "{{ m.content | trim }}<end_of_turn>\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "merged": (
        "{% if messages[0].role == 'system' %}{% set sys = messages[0].content %}"
        "{% set rest = messages[1:] %}{% else %}{% set sys = '' %}{% set rest = messages %}"
        "{% endif %}{% for m in rest %}{% if m.role == 'user' %}<<U>>"
        "{% if loop.first and sys %}<<SYS>>{{ sys | trim }}<</SYS>>{% endif %}"
        "{{ m.content | trim }}{% else %}<<A>>{{ m.content | trim }}</s>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<<A>>{% endif %}"
    ),
    "strips thinking": (
        "{% set last = namespace(at=-1) %}"
        "{% for m in messages %}{% if m.role == 'user' %}{% set last.at = loop.index0 %}{% endif %}"
        "{% endfor %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{% set content = m.content %}{% set why = '' %}"
        "{% if m.role == 'assistant' %}{% if m.reasoning_content is string %}"
        "{% set why = m.reasoning_content %}{% elif '</think>' in content %}"
        "{% set why = content.split('</think>')[0].split('<think>')[-1].strip('\n') %}"
        "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}{% endif %}"
        "{% if why and loop.index0 > last.at %}<think>\n{{ why }}\n</think>\n\n{% endif %}"
        "{{ content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    ),
}
"""Each a template as model cards have it, shortened."""

NO_SYSTEM = {"gemma"}
"""Those that refuse a system message."""


@pytest.fixture
def tokenizers(chat_tokenizer: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that gives the tokenizer with a template, by its name or as text."""

    def of(template: str, *, marks: bool = True) -> Any:
        return chat_tokenizer(TEMPLATES.get(template, template), marks=marks)

    return of


def expected(tokenizer: Any, text: str, wanted: dict[str, str]) -> list[str | None]:
    """Return the role of each token: whose content one of its characters is of.

    `wanted` has contents that each occur once in the text, and their roles.
    """
    spans = []
    for content, role in wanted.items():
        assert text.count(content) == 1
        spans.append((text.index(content), text.index(content) + len(content), role))
    found = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    names: list[str | None] = []
    for start, stop in found["offset_mapping"]:
        over = [role for first, last, role in spans if max(first, start) < min(last, stop)]
        names.append(over[0] if over else None)
    return names


def check(tokenizer: Any, messages: Any, wanted: dict[str, str], **options: Any) -> None:
    """Compare with what is expected, ends of turns and marks of thinking apart."""
    chat = rendered_chat(tokenizer, messages, **options)
    assert chat.roles.refused is None
    ids = tokenizer.apply_chat_template(
        messages,
        add_generation_prompt=options.get("goes_on", False),
        return_dict=False,
    )
    assert list(chat.roles.ids) == ids
    names = expected(tokenizer, chat.text, wanted)
    assert list(chat.roles.names) == names


@pytest.mark.parametrize("template", TEMPLATES)
@given(data=st.data())
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_roles_are_those_of_unique_contents(
    tokenizers: Callable[..., Any], template: str, data: st.DataObject
) -> None:
    """Whatever the template does with system messages, white space and turns."""
    tokenizer = tokenizers(template)
    turns = data.draw(st.integers(1, 4))
    has_system = template not in NO_SYSTEM and data.draw(st.booleans())
    roles = ["system"] * has_system + ["user", "assistant", "user", "assistant"][:turns]
    messages, wanted = [], {}
    for at, role in enumerate(roles):
        words = " ".join(data.draw(WORDS))
        content = f"q{at}z{words}z{at}q"  # occurs once, and has no white space at its edges
        messages.append({"role": role, "content": content})
        wanted[content] = role
    goes_on = roles[-1] == "user" and data.draw(st.booleans())
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=goes_on)
    wanted = {content: role for content, role in wanted.items() if content in text}
    check(tokenizer, messages, wanted, goes_on=goes_on)


@pytest.mark.parametrize("template", ["chatml", "llama"])
def test_white_space_at_the_edges_is_the_content_s_where_it_was_kept(
    tokenizers: Callable[..., Any], template: str
) -> None:
    """One template trims contents and the other does not."""
    tokenizer = tokenizers(template)
    kept = template == "chatml"
    content = "\n  is it?  \n"
    messages = [{"role": "user", "content": content}, {"role": "assistant", "content": " yes"}]
    wanted = (
        {content: "user", " yes": "assistant"} if kept else {"is it?": "user", "yes": "assistant"}
    )
    check(tokenizer, messages, wanted)


THOUGHT = {
    "a field": {"reasoning_content": "because of xx", "content": "It is yy."},
    "marks": {"content": "<think>\nbecause of xx\n</think>\n\nIt is yy."},
}


@pytest.mark.parametrize("message", THOUGHT.values(), ids=list(THOUGHT))
@pytest.mark.parametrize("marks", [True, False], ids=["marks are tokens", "marks are text"])
def test_thinking_is_what_the_template_marks(
    tokenizers: Callable[..., Any], message: dict[str, Any], *, marks: bool
) -> None:
    """From after the mark that opens it to the one that closes it, which is thinking's, too."""
    tokenizer = tokenizers("strips thinking", marks=marks)
    messages = [{"role": "user", "content": "why?"}, {"role": "assistant", **message}]
    wanted = {
        "why?": "user",
        "<think>": "assistant",
        "\nbecause of xx\n</think>": "thinking",
        "\n\nIt is yy.": "assistant",
    }
    check(tokenizer, messages, wanted)


@pytest.mark.parametrize("message", THOUGHT.values(), ids=list(THOUGHT))
def test_thinking_that_the_template_strips_is_not_there(
    tokenizers: Callable[..., Any], message: dict[str, Any]
) -> None:
    """As of earlier turns; the rest has its roles."""
    tokenizer = tokenizers("strips thinking")
    messages = [
        {"role": "user", "content": "why?"},
        {"role": "assistant", **message},
        {"role": "user", "content": "and then?"},
    ]
    check(
        tokenizer,
        messages,
        {"why?": "user", "It is yy.": "assistant", "and then?": "user"},
        goes_on=True,
    )


def test_what_the_assistant_is_to_go_on_with_may_begin_with_a_mark(
    tokenizers: Callable[..., Any],
) -> None:
    """As the templates of models do that always think."""
    template = TEMPLATES["chatml"].replace("assistant\n{% endif", "assistant\n<think>\n{% endif")
    tokenizer = tokenizers(template)
    wanted = {"why?": "user", "<think>": "assistant"}
    chat = rendered_chat(tokenizer, [{"role": "user", "content": "why?"}], goes_on=True)
    names = expected(tokenizer, chat.text, wanted)
    assert list(chat.roles.names) == [*names[:-1], "thinking"]

    said = tokenizer("so</think>yes", add_special_tokens=False)["input_ids"]
    roles = chat.roles.going_on(said)[len(names) :]
    close = said.index(tokenizer.convert_tokens_to_ids("</think>"))
    assert roles == ["thinking"] * (close + 1) + ["assistant"] * (len(said) - close - 1)


@pytest.mark.parametrize("marks", [True, False], ids=["marks are tokens", "marks are text"])
def test_what_was_generated_has_the_roles_of_the_same_text_when_given(
    tokenizers: Callable[..., Any], *, marks: bool
) -> None:
    """A model's own words, given again, mean the same tokens; the end of its turn, too."""
    tokenizer = tokenizers("strips thinking", marks=marks)
    ends = {tokenizer.convert_tokens_to_ids("<|im_end|>")}
    asked = [{"role": "user", "content": "why?"}]
    answer = "<think>\nbecause\n</think>\n\nyes"
    prompt = rendered_chat(tokenizer, asked, goes_on=True)
    given = rendered_chat(tokenizer, [*asked, {"role": "assistant", "content": answer}], ends=ends)
    count = len(prompt.roles.ids)
    said = list(given.roles.ids)[count:-1]  # without the line break after the end
    assert list(given.roles.ids)[:count] == list(prompt.roles.ids)
    assert given.roles.names[:-1] == prompt.roles.going_on(said)
    assert given.roles.names[-2:] == ["assistant", None]


def test_parts_of_content_and_other_names_of_roles(tokenizers: Callable[..., Any]) -> None:
    """Contents in parts of text, and a developer, who is the system."""
    template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}"
        "{{ m.content }}{% else %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}"
        "<|im_end|>{% endfor %}"
    )
    tokenizer = tokenizers(template)
    parts = [{"type": "text", "text": "one xx"}, {"type": "text", "text": " and yy"}]
    messages = [{"role": "developer", "content": "be zz"}, {"role": "user", "content": parts}]
    check(tokenizer, messages, {"be zz": "system", "one xx": "user", " and yy": "user"})


REFUSED = {
    "written twice": (
        "{% for m in messages %}{{ m.content }}{{ m.content }}{% endfor %}",
        [{"role": "user", "content": "a b"}],
        "something else of message 0 \\('user'\\) than its content, or writes it twice",
    ),
    "changed": (
        "{% for m in messages %}{{ m.content | upper }}{% endfor %}",
        [{"role": "user", "content": "a b"}],
        "something else of message 0",
    ),
    "two messages in one token": (
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        [{"role": "user", "content": "wo"}, {"role": "assistant", "content": "rd"}],
        "one token has characters of messages 0 and 1",
    ),
    "tool calls": (
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        [{"role": "assistant", "content": "x", "tool_calls": [{"name": "f"}]}],
        "message 0 has tool calls",
    ),
}


@pytest.mark.parametrize(("template", "messages", "why"), REFUSED.values(), ids=list(REFUSED))
def test_what_cannot_be_told_is_refused(
    tokenizers: Callable[..., Any], template: str, messages: Any, why: str
) -> None:
    """When somebody asks for a role, with the reason; the text is made all the same."""
    chat = rendered_chat(tokenizers(template), messages)
    assert chat.roles.ids
    with pytest.raises(ValueError, match=why):
        chat.roles.where("user")


def test_a_template_may_refuse(tokenizers: Callable[..., Any], make_tokenizer: Any) -> None:
    """Its own words say why."""
    messages = [{"role": "system", "content": "x"}, {"role": "user", "content": "y"}]
    with pytest.raises(BadConversation, match="does not take these messages: System role not supp"):
        rendered_chat(tokenizers("gemma"), messages)
    with pytest.raises(NoChatTemplate, match=r"has no chat template.*lm\.generate"):
        rendered_chat(make_tokenizer(), messages)


def test_generation_marks_of_a_template_are_not_needed_and_not_believed(
    tokenizers: Callable[..., Any],
) -> None:
    """A template that marks the wrong part as generated has the right roles."""
    template = (
        "{% for m in messages %}{% if m.role == 'user' %}{% generation %}{{ m.content }}"
        "{% endgeneration %}{% else %}<|im_start|>{{ m.content }}<|im_end|>{% endif %}{% endfor %}"
    )
    messages = [{"role": "user", "content": "one xx"}, {"role": "assistant", "content": "two yy"}]
    check(tokenizers(template), messages, {"one xx": "user", "two yy": "assistant"})
