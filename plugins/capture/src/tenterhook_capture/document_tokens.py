"""The tokens of documents as a model reads them: made of text, of messages, or given as ids.

Texts go through the model's tokenizer, which puts special tokens around them. Conversations are
written by its chat template, which has them already. Token ids are taken as they are.
"""

import inspect
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from tenterhook_capture.conversations import conversations
from tenterhook_capture.document_errors import UnreadableData
from tenterhook_capture.documents import Documents
from tenterhook_capture.errors import BadArgument
from tenterhook_capture.id_lists import check_ids, parse_ids
from tenterhook_capture.lazy_texts import AT_ONCE
from tenterhook_capture.records import check_text
from tenterhook_capture.special_tokens import DoubledSpecialToken, SpecialTokens
from tenterhook_capture.text_model import TextModel

OnDocuments = Callable[[int, int], None]
"""Is told how many documents have been tokenized, and of how many."""


@attrs.frozen
class EncodedDocument:
    """A document as tokens."""

    ids: Sequence[int]
    characters: Iterable[tuple[int, int]] | None = None
    """Where those of each token begin and end in the document; `None` where nobody tells."""
    roles: Any = None
    """Of a conversation: who says each of them."""


class DocumentTokens:
    """The tokens of each document, in order, with whatever the model tells of them."""

    def __init__(
        self,
        model: TextModel,
        documents: Documents,
        *,
        no_special_tokens: bool = False,
        on_documents: OnDocuments | None = None,
    ) -> None:
        """Raise `BadArgument` where nothing is added, or the model cannot leave it out."""
        self._model = model
        self._documents = documents
        self._on_documents = on_documents
        self._special = _special_tokens_of(model)
        self._adds = not (documents.are_messages or documents.are_token_ids)
        if no_special_tokens and not self._adds:
            kind = "messages" if documents.are_messages else "token ids"
            raise BadArgument("no_special_tokens", True, f"False: {kind} get none")
        if no_special_tokens and not _takes_special_tokens(model):
            kind = type(model).__name__
            expected = f"False: token_ids of a {kind} takes no special_tokens=False"
            raise BadArgument("no_special_tokens", True, expected)
        self._leaves_out = no_special_tokens

    @property
    def special(self) -> SpecialTokens:
        """What is around the model's texts; windows of a long document may have it too."""
        return self._special

    @property
    def around(self) -> SpecialTokens:
        """What is around each of these documents and stays where one is cut."""
        return self._special if self._adds and not self._leaves_out else self._special.without()

    def __iter__(self) -> Iterator[EncodedDocument]:
        """Yield the documents; warn once of special tokens that are there twice."""
        doubled: list[int] = []
        documents = self._documents
        for start in range(0, len(documents), AT_ONCE):
            some = documents.texts[start : start + AT_ONCE]
            for at, encoded in enumerate(self._some(some, start), start):
                if self._adds and self._special.doubled(encoded.ids):
                    doubled.append(at)
                yield encoded
            if self._on_documents is not None:
                self._on_documents(min(start + AT_ONCE, len(documents)), len(documents))
        if doubled:
            self._warn(doubled)

    def _some(self, texts: Sequence[str], first: int) -> Iterator[EncodedDocument]:
        model, documents = self._model, self._documents
        if not documents.are_token_ids:
            for at, text in enumerate(texts, first):
                with self._naming(at):
                    check_text(text, "")
        if documents.are_messages:
            for each in self._roles([*conversations(texts)]):
                yield EncodedDocument(each.ids, getattr(each, "spans", None), each)
        elif documents.are_token_ids:
            count = getattr(model, "vocabulary_size", None)
            for at, text in enumerate(texts, first):
                ids = parse_ids(text)
                with self._naming(at):
                    check_ids(ids, count, "")
                yield EncodedDocument(ids)
        else:
            yield from self._of_texts(texts)

    @contextmanager
    def _naming(self, document: int) -> Iterator[None]:
        """A block whose `UnreadableData` says where a document is, which may take long."""
        try:
            yield
        except UnreadableData as error:
            raise UnreadableData(self._documents.where(document), error.reason) from None

    def _of_texts(self, texts: Sequence[str]) -> Iterator[EncodedDocument]:
        asked: dict[str, Any] = {"special_tokens": False} if self._leaves_out else {}
        with_spans = getattr(self._model, "token_ids_and_spans", None)
        if with_spans is None:
            yield from map(EncodedDocument, self._model.token_ids(texts, **asked))
            return
        ids, spans = with_spans(texts, **asked)
        yield from map(EncodedDocument, ids, [None] * len(ids) if spans is None else spans)

    def _roles(self, messages: list[Any]) -> list[Any]:
        roles_of = getattr(self._model, "roles", None)
        if roles_of is None:
            kind = type(self._model).__name__
            why = f"they are messages, and a {kind} has no chat template (`roles`)"
            raise UnreadableData(self._documents.source, f"{why}; give texts")
        found: list[Any] = roles_of(messages)
        return found

    def _warn(self, doubled: Sequence[int]) -> None:
        token = self._special.before[0]
        tokenizer = getattr(self._model.context, "tokenizer", None)
        name = getattr(tokenizer, "convert_ids_to_tokens", lambda id: f"token {id}")(token)
        warnings.warn(
            f"{len(doubled)} of {len(self._documents)} documents, document {doubled[0]} first, "
            f"begin with the special token {name!r} twice: their text has it, and the tokenizer "
            "puts it before them once more. Have it add none, with --no-special-tokens "
            "(no_special_tokens=True), or give conversations as messages.",
            DoubledSpecialToken,
            stacklevel=2,
        )


def _special_tokens_of(model: TextModel) -> SpecialTokens:
    found = getattr(model, "special_tokens", None)
    return found if isinstance(found, SpecialTokens) else SpecialTokens()


def _takes_special_tokens(model: TextModel) -> bool:
    return "special_tokens" in inspect.signature(model.token_ids).parameters
