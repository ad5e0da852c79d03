"""A small trained language model and real text to run it on: first steps with no network.

`tiny:` names the model, `tiny:sample` the text; both are files of this package.
"""

from tenterhook_tiny.errors import NoRevisions, UnknownName
from tenterhook_tiny.model_loader import load, model_path
from tenterhook_tiny.sample import read, sample_path

__all__ = ["NoRevisions", "UnknownName", "load", "model_path", "read", "sample_path"]
