"""Documents: the texts that a model reads, and where they come from.

Those that are given are in `given_documents`, those that have a name in `named_documents`.
"""

from tenterhook_capture.document_errors import NoDocuments, NoSuchData, UnknownField, UnreadableData
from tenterhook_capture.given_documents import Documents, read_table
from tenterhook_capture.lazy_texts import AT_ONCE, LazyTexts, texts_with_content
from tenterhook_capture.named_documents import DataName, read_documents
from tenterhook_capture.text_files import SampleBy
from tenterhook_store import ranges

__all__ = [
    "AT_ONCE",
    "DataName",
    "Documents",
    "LazyTexts",
    "NoDocuments",
    "NoSuchData",
    "SampleBy",
    "UnknownField",
    "UnreadableData",
    "ranges",
    "read_documents",
    "read_table",
    "texts_with_content",
]
