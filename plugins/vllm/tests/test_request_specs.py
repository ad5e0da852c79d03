"""What a request may ask for, what is refused and how, and which share a prefix cache."""

import json
from typing import Any

import pytest
import torch

from tenterhook.hooks import Controller
from tenterhook_edits import AddVector
from tenterhook_layer_activation import LayerActivationDetector
from tenterhook_specs import BadSpec, HookSpec, ModelSpec
from tenterhook_vllm import RequestSpec, ServedPoints, read_request, request_args
from tenterhook_vllm.request_specs import is_of_prefix

WIDTH = 4
POINTS = ServedPoints({"resid_post.0": WIDTH, "resid_post.1": WIDTH, "logits": 9})
HALF = ServedPoints({"resid_post.0": WIDTH}, torch.float16)


def add(vector: Any = None, layer: Any = "resid_post.0", **more: Any) -> dict[str, Any]:
    """Return a hook that adds a vector, of ones unless given."""
    parameters = {"vector": [1.0] * WIDTH if vector is None else vector}
    return {"hook": "AddVector", "layer": layer, "parameters": parameters, **more}


def read(**table: Any) -> RequestSpec:
    """Read what a request asks for."""
    return read_request(table, POINTS)


class TestWhatIsAsked:
    """A table, in each of its forms, gives the hooks, selections and points."""

    def test_whole(self) -> None:
        """Hooks have their own selection or the request's."""
        own = {"tokens": [0, 2], "features": "1:3"}
        spec = read(
            hooks=[add(), add(layer="resid_post.1", selection=own)],
            selection={"phase": "generated"},
            capture=["logits"],
        )
        first, second = spec.changes
        assert (first.point, second.point) == ("resid_post.0", "resid_post.1")
        assert first.selection.phase == "generated"
        assert (second.selection.tokens, second.selection.phase) == ((0, 2), None)
        assert spec.selection.phase == "generated"
        assert spec.points == {"resid_post.0", "resid_post.1", "logits"}

    @pytest.mark.parametrize(
        "hooks",
        [
            [add()],
            {"hooks": [add()], "on_error": "raise"},
            [HookSpec(**add())],
            ModelSpec(hooks=(HookSpec(**add(torch.ones(WIDTH))),)),
        ],
        ids=["tables", "a table", "a spec", "a spec of a model"],
    )
    def test_forms(self, hooks: Any) -> None:
        """All say the same, as tables and as text."""
        (change,) = read(hooks=hooks).changes
        assert torch.equal(change.hook.vector, torch.ones(WIDTH))  # type: ignore[attr-defined]
        asked = request_args(hooks=hooks, text=True)["tenterhook"]
        (again,) = read_request(asked, POINTS).changes
        assert torch.equal(again.hook.vector, torch.ones(WIDTH))  # type: ignore[attr-defined]

    def test_arguments(self) -> None:
        """What is not given does not stand there."""
        assert request_args(capture="logits") == {"tenterhook": {"capture": ["logits"]}}
        asked = request_args(hooks=HookSpec(**add()), selection={"tokens": slice(1, 3)})
        assert json.dumps(asked)
        assert asked["tenterhook"]["selection"] == {"tokens": "1:3"}


MISTAKES: dict[str, tuple[Any, str]] = {
    "nothing": ({}, "asks for nothing; give it hooks, or points"),
    "no table": ([1], r"the request is \[1\], and must be a table"),
    "bytes": (b"\x80", "must be a table, or JSON text"),
    "no JSON": ("{", "the request is no JSON"),
    "a key": ({"hook": []}, "unknown key 'hook'; did you mean 'hooks'"),
    "a key twice": ('{"capture": [], "capture": []}', "'capture' stands twice"),
    "deep text": ("[" * 100_000, "the request is no JSON"),
    "too deep": ({"hooks": [[[] for _ in range(3)]] * 2}, r"hooks\[0\]: expected a table"),
    "not hooks": ({"hooks": "AddVector"}, "hooks: expected a list, not str 'AddVector'"),
    "on_error": ({"on_error": "warn", "capture": ["logits"]}, "on_error: a hook that fails ends"),
    "on_error inside": ({"hooks": {"on_error": "warn"}}, r"hooks\.on_error: a hook that fails"),
    "a class": ({"hooks": [add() | {"hook": "Add"}]}, r"hooks\[0\]\.hook: 'Add' is not allowed"),
    "code": ({"hooks": [add() | {"hook": "os:system"}]}, "'os:system' is not allowed here"),
    "a layer": ({"hooks": [add(layer="resid_post.9")]}, r"hooks\[0\]\.layer: 'resid_post\.9' is"),
    "an index": ({"hooks": [add(layer=0)]}, r"hooks\[0\]\.layer: 0 is no point here"),
    "permanent": ({"hooks": [add(permanent=True)]}, r"hooks\[0\]\.permanent: the hook ends"),
    "priority": ({"hooks": [add(priority=1)]}, r"hooks\[0\]\.priority: hooks run in the order"),
    "a type": ({"hooks": [add(type="backward")]}, r"hooks\[0\]\.type: hooks change what stands"),
    "off": ({"hooks": [add(enabled=False)]}, r"hooks\[0\]\.enabled: it would do nothing"),
    "an id twice": ({"hooks": [add(id="a"), add(id="a")]}, r"hooks\[1\]\.id: 'a' is taken"),
    "a width": ({"hooks": [add([1.0] * 3)]}, "they are for 3 features, and the output of layer"),
    "nan": ({"hooks": [add([float("nan")] * WIDTH)]}, r"vector\[0\]: nan is not a finite number"),
    "nan in text": ('{"hooks": [{"hook": "Scale", "layer": "logits", "parameters": '
                    '{"factor": NaN}}]}', "factor: nan is not a finite number"),
    "infinite in float32": ({"hooks": [add([1e300] * WIDTH)]}, "not all numbers are finite"),
    "too large": ({"hooks": [{"hook": "Scale", "layer": "logits", "parameters": {"factor": 1e39}}]},
                  r"hooks\[0\]\.parameters: they are too large for the model's float32"),
    "nothing changed": (
        {"hooks": [{"hook": "AddVector", "layer": "logits",
                    "parameters": {"vector": [1.0] * 9, "coefficient": 0.0}}]},
        r"hooks\[0\]: AddVector of these parameters changes nothing",
    ),
    "vectors of rows": ({"hooks": [add([[1.0] * WIDTH] * 2)]}, "vector has 2 rows"),
    "means of tokens": (
        {"hooks": [{"hook": "MeanAblate", "layer": "resid_post.0",
                    "parameters": {"mean": [[1.0] * WIDTH] * 3}}]},
        r"hooks\[0\]\.parameters: ",
    ),
    "a point": ({"capture": ["logit"]}, r"capture\[0\]: 'logit' is no point here, but .*'logits'"),
    "no list": ({"capture": "logits"}, "capture: expected a list, not str 'logits'"),
    "twice": ({"capture": ["logits", "logits"]}, r"capture\[1\]: 'logits' stands twice"),
    "a word": ({"capture": ["logits"], "selection": {"tokens": "lst"}}, "Did you mean 'last'"),
    "an argument": ({"capture": ["logits"], "selection": {"token": 1}}, "no argument 'token'"),
    "a selection": ({"capture": ["logits"], "selection": {"selection": 1}}, "no argument 'select"),
    "of a hook": ({"hooks": [add(selection={"phase": "x"})]}, r"hooks\[0\]\.selection: phase='x'"),
    "heads": ({"capture": ["logits"], "selection": {"heads": 0}}, r"selection\.heads: the rows at"),
    "rows": ({"capture": ["logits"], "selection": {"rows": 1}}, r"selection\.rows: a request is"),
    "two rows": ({"capture": ["logits"], "selection": {"tokens": [[1], [2]]}}, "there are 2 rows"),
    "a feature": ({"capture": ["logits"], "selection": {"features": 9}}, "There is no feature 9"),
    "a feature of a hook": (
        {"hooks": [add(selection={"features": 4})]},
        r"hooks\[0\]\.selection\.features: There is no feature 4",
    ),
    "no features": (
        {"capture": ["logits"], "selection": {"features": "20:"}},
        r"selection\.features: they are none of 9",
    ),
    "no table of words": (
        {"capture": ["logits"], "selection": [1]},
        r"selection: expected a table, not list \[1\]",
    ),
    "many points": ({"capture": ["logits"] * 9}, "capture: 9 points are named, and there are 3"),
    "many hooks": ({"hooks": [add()] * 101}, "hooks: there are 101, and 100 at most"),
    "positions together": (
        {"hooks": [add(selection={"tokens": [*range(60)]})] * 17},
        r"hooks\[16\]\.selection\.tokens: with it 1,020 positions are listed, and 1,000",
    ),
    "many mistakes": ({"hooks": [add(layer="x", type="backward")] * 50}, "There may be more: what"),
    "positions": (
        {"capture": ["logits"], "selection": {"tokens": [*range(1001)]}},
        "with it 1,001 positions are listed, and 1,000 at most; give a slice",
    ),
    "a large number": ({"capture": ["logits"], "selection": {"tokens": 2**70}}, "beyond 64 bits"),
}  # fmt: skip


class TestMistakes:
    """Each is a `BadSpec` that says where it stands and what to do; nothing has run."""

    @pytest.mark.parametrize(("given", "match"), MISTAKES.values(), ids=list(MISTAKES))
    def test_one(self, given: Any, match: str) -> None:
        """Of any kind, as a table or as text."""
        with pytest.raises(BadSpec, match=match):
            read_request(given, POINTS)
        if isinstance(given, dict):
            with pytest.raises(BadSpec, match=match):
                read_request(json.dumps(given), POINTS)

    def test_all_at_once(self) -> None:
        """Whoever asked learns of every mistake."""
        with pytest.raises(BadSpec) as caught:
            read(hooks=[add([1.0], permanent=True, type="backward"), add([1.0])], capture=["x"])
        paths = [each.partition(":")[0] for each in caught.value.mistakes]
        assert paths == ["capture[0]", "hooks[0].type", "hooks[0].permanent", "hooks[1].parameters"]

    def test_sizes(self) -> None:
        """More elements, values or characters than are allowed."""
        with pytest.raises(BadSpec, match=r"hold 8 elements, and 7 at most"):
            read_request({"hooks": [add(), add()]}, POINTS, max_elements=7)
        with pytest.raises(BadSpec, match="holds more than 32,769 values"):
            read_request({"hooks": [[0] * 40_000]}, POINTS, max_elements=1)
        with pytest.raises(BadSpec, match="more than 10 characters"):
            read_request('{"capture": ["logits"]}', POINTS, longest=10)

    def test_a_small_dtype(self) -> None:
        """What float32 holds may be infinite in the model's own dtype."""
        asked = {"hooks": [add([1e5] * WIDTH)]}
        read_request(asked, POINTS)
        with pytest.raises(BadSpec, match="too large for the model's float16"):
            read_request(asked, HALF)

    def test_no_points(self) -> None:
        """A model that has none says so."""
        with pytest.raises(BadSpec, match="'logits' is no point here, and there are none"):
            read_request({"capture": ["logits"]}, ServedPoints({}))

    def test_classes_of_the_service(self) -> None:
        """They are controllers, and what the service itself got wrong is no mistake of a spec."""
        with pytest.raises(TypeError, match=r"hooks\['a'\] is 5, and no class of controllers"):
            read_request({}, POINTS, hooks={"a": 5})  # type: ignore[dict-item]
        both: Any = type("Both", (LayerActivationDetector, Controller), {})
        with pytest.raises(TypeError, match="is a detector, and what it saw would come to no one"):
            read_request({}, POINTS, hooks={"a": both})

    def test_hooks_that_do_not_fit(self) -> None:
        """Of the service's own classes, one that makes another shape or no tensor is refused."""
        shorter = type("Shorter", (AddVector,), {"function": lambda self, rows: rows[..., 1:]})
        with pytest.raises(BadSpec, match=r"hooks\[0\]: AddVector makes \(1, 1, 3\) of \(1, 1, 4"):
            read_request({"hooks": [add()]}, POINTS, hooks={"AddVector": shorter})
        nothing = type("Nothing", (AddVector,), {"function": lambda self, rows: 5})
        with pytest.raises(BadSpec, match="AddVector returned 5, and no tensor"):
            read_request({"hooks": [add()]}, POINTS, hooks={"AddVector": nothing})


class TestSalts:
    """Who may share what a prefix cache holds."""

    def test_unchanged_requests_share_with_all(self) -> None:
        """They have none. One without hooks or captures asks for nothing, and is never read."""
        assert RequestSpec().salt([1]) is None

    def test_one_change(self) -> None:
        """Equal changes have one salt, in whatever form, and others another."""
        same = read(hooks=[add(id="x")]).salt(), read(hooks=[HookSpec(**add())]).salt([1, 2])
        others = [
            read(hooks=[add([1.0, 1.0, 1.0, 2.0])]),
            read(hooks=[add(layer="resid_post.1")]),
            read(hooks=[add(), add()]),
            read(hooks=[add(selection={"tokens": 0})]),
            read(hooks=[add()], selection={"tokens": "1:"}),
            read(hooks=[add()], selection={"features": 1}),
        ]
        assert same[0] == same[1]
        assert len({same[0], *(each.salt() for each in others)}) == 7

    @pytest.mark.parametrize(
        "words",
        [
            {"tokens": "last"},
            {"tokens": -1},
            {"tokens": "-2:"},
            {"tokens": ":-1"},
            {"tokens": "prompt"},
            {"phase": "prompt"},
            {"step": 0},
            {"every": 2},
            {"tokens": [[0, -1]]},
        ],
        ids=str,
    )
    def test_what_counts_from_the_end(self, words: dict[str, Any]) -> None:
        """`last` of a short prompt is in the middle of a longer one, which must not share."""
        spec = read(hooks=[add()], selection=words)
        assert not is_of_prefix(spec.changes[0].selection)
        assert spec.salt([1, 2]) == spec.salt([1, 2])
        assert len({spec.salt([1, 2]), spec.salt([1, 2, 3]), spec.salt(), spec.salt()}) == 4

    @pytest.mark.parametrize("words", [{}, {"tokens": 3}, {"tokens": [0, 4]}, {"tokens": "1:9:2"}])
    def test_what_counts_from_the_beginning(self, words: dict[str, Any]) -> None:
        """The same tokens of a prefix, whatever comes after."""
        spec = read(hooks=[add()], selection=words)
        assert spec.salt([1, 2]) == spec.salt([1, 2, 3]) == spec.salt()

    def test_captures_share_nothing(self) -> None:
        """Not even with themselves, asked a second time."""
        spec = read(capture=["logits"])
        assert spec.salt([1]) != spec.salt([1])
