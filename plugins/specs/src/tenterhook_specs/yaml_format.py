"""Specs as YAML, by PyYAML where it is installed, and of YAML what is plain.

PyYAML reads a text in two steps, and we look at it between them: nodes first, then values. A node
that aliases name many times is one node still, however many values it will stand for; tags and
keys still say what they are.
"""

import importlib
from typing import Any

from tenterhook.plugins import MissingDependency
from tenterhook_specs.plain_values import MOST_REPEATED
from tenterhook_specs.spec_format import SpecFormat

_TAG = "tag:yaml.org,2002:"
_SCALARS = {"str", "int", "float", "bool", "null", "merge"}


class _Yaml:
    def loads(self, text: str) -> Any:
        yaml = _yaml()
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            if node is None:
                return None
            _expanded_size(node, {})
            return loader.construct_document(node)
        except (AttributeError, LookupError, TypeError, yaml.YAMLError) as error:
            raise ValueError(str(error)) from error  # `!!bool x` is a KeyError

    def dumps(self, values: Any) -> str:
        text: str = _yaml().safe_dump(values, sort_keys=False)
        return text


YAML: SpecFormat = _Yaml()


def _yaml() -> Any:
    try:
        return importlib.import_module("yaml")
    except ModuleNotFoundError as error:
        raise MissingDependency("A spec in YAML", "yaml", "'tenterhook[yaml]'") from error


def _expanded_size(node: Any, sizes: dict[int, int]) -> int:
    """Return how many values a node stands for, those of aliases each time; check it on the way.

    `sizes` are those of the nodes seen so far, 0 while a node's inside is looked at. Raises
    `ValueError` for what is not plain, a key that stands twice, and aliases that repeat too much:
    nine lines, each nine times the one before, are a text of 300 characters and 400 million values.
    """
    if id(node) in sizes:
        if not sizes[id(node)]:
            raise ValueError(f"{_line(node)}: an alias stands inside what it names")
        return sizes[id(node)]
    sizes[id(node)] = 0
    match node.id:
        case "scalar":
            _check_scalar(node)
            size = 1
        case "sequence":
            _check_tag(node, {"seq"})
            size = 1 + sum(_expanded_size(each, sizes) for each in node.value)
        case _:
            _check_tag(node, {"map"})
            _check_keys(node)
            size = 1 + sum(_expanded_size(each, sizes) for pair in node.value for each in pair)
    if size > len(sizes) + MOST_REPEATED:
        raise ValueError(
            f"{_line(node)}: aliases repeat more than {MOST_REPEATED:,} values; write them out, or "
            "fewer of them"
        )
    sizes[id(node)] = size
    return size


def _check_scalar(node: Any) -> None:
    if node.tag in (f"{_TAG}int", f"{_TAG}float") and ":" in node.value:
        node.tag = f"{_TAG}str"  # YAML 1.1 reads the slice 2:5 as 125, in base 60
    _check_tag(node, _SCALARS)


def _check_tag(node: Any, plain: set[str]) -> None:
    kind = node.tag.removeprefix(_TAG)
    if kind not in plain:
        what = f"a {kind} in YAML" if node.tag.startswith(_TAG) else f"of the tag {kind!r}"
        raise ValueError(f"{_line(node)}: it is {what}, which is no plain value; put it in quotes")


def _check_keys(node: Any) -> None:
    keys = set()
    for key, _ in node.value:
        if key.id != "scalar":
            raise ValueError(f"{_line(key)}: a key is a {key.id}, and must be text")
        if key.tag == f"{_TAG}merge":
            continue
        if key.tag != f"{_TAG}str":
            kind = key.tag.removeprefix(_TAG)
            raise ValueError(
                f"{_line(key)}: the key {key.value!r} is a {kind} in YAML; put it in quotes"
            )
        if key.value in keys:
            raise ValueError(f"{_line(key)}: the key {key.value!r} stands twice in one table")
        keys.add(key.value)


def _line(node: Any) -> str:
    return f"line {node.start_mark.line + 1}"
