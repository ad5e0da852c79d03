"""One model that several processes hold among them: each runs every forward, and one writes.

A layer of such a model is spread over the processes (tensor parallel, FSDP2), or each process has
some of the layers (pipeline stages). No process can run a forward alone: they all have to be in
it. So all of them make the same call, and this happens:

1. Each tokenizes and plans, and runs the first forwards, in step with the others.
2. The first of them, the *leader*, goes on as it would alone: it has the run, the engine, the
   observers. Before each forward it tells the others the documents.
3. The others *follow*: they run what they are told and drop what it gives, and make no run.
4. When the leader is done it says how that ended, and each returns or raises the same.

So it is with a plan that is begun, and with an estimate: the leader's batches, and its store, say
which forwards there are.

What the layers of a pipeline's stages give goes from the process that has the layer to all. A layer
of which each process has but a part has no rows anywhere: it is refused by name.
"""

import pickle
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor, distributed

from tenterhook.errors import TenterhookError
from tenterhook_capture.engine import Engine, LocalEngine
from tenterhook_capture.errors import BadArgument, NotWhole
from tenterhook_capture.forward import ForwardPass, ForwardResult
from tenterhook_capture.points import Point
from tenterhook_capture.text_model import TextModel

T = TypeVar("T")

SAMPLE = 4096
"""Values of each point that are compared between processes, once a call."""

APART = 0.05
"""How far, of the largest value, those of one tensor may be apart: sums in another order."""


def group_of(model: TextModel) -> Any:
    """Return the processes that hold the model among them; `None` where this one has all of it.

    Told by parameters that are `DTensor`s over several processes, and by the stage of a pipeline of
    transformers.
    """
    if not distributed.is_available() or not distributed.is_initialized():
        return None
    module = model.layers.index.module
    stage = getattr(module, "_pp_stage", None)
    if stage is not None and stage.pp_size > 1:
        return stage.pp_group
    meshes: set[Any] = {getattr(each, "device_mesh", None) for each in module.parameters()}
    meshes.discard(None)
    mesh: Any = max(meshes, key=lambda each: each.size(), default=None)
    if mesh is None or mesh.size() == 1:
        return None
    return mesh.get_group() if mesh.ndim == 1 else distributed.group.WORLD


def has_stages(model: TextModel) -> bool:
    """Whether each process has some of the layers, so that no forward may end early."""
    stage = getattr(model.layers.index.module, "_pp_stage", None)
    return stage is not None and stage.pp_size > 1


def together(forward: ForwardPass, model: TextModel, points: Sequence[Point]) -> "ForwardPass":
    """Return what runs the forwards of a model: with the other processes, where it has some."""
    group = group_of(model)
    if group is None:
        return forward
    found: Any = SharedForward(forward, model, points, group)
    return found  # type: ignore[no-any-return]


def is_shared(capture: Any) -> bool:
    """Whether several processes hold the model of a capture among them."""
    return isinstance(capture.forward, SharedForward)


def leads(capture: Any) -> bool:
    """Whether this process is the one that makes runs of a capture, and tells of them."""
    return not is_shared(capture) or capture.forward.leads


def led(capture: Any, engine: Engine, lead: Callable[[], T]) -> T:
    """Return what `lead` makes of a capture: in this process, or in the leader of some.

    Raises `BadArgument` for an engine that has processes of its own do the units of a model that
    several hold.
    """
    if not is_shared(capture):
        return lead()
    if not isinstance(engine, LocalEngine):
        raise BadArgument(
            "engine", engine, "'local' for a model that several processes hold among them"
        )
    forward: SharedForward = capture.forward
    return forward.run(lead)


class SharedForward:
    """A `ForwardPass` that all processes of a group are in."""

    def __init__(
        self, forward: ForwardPass, model: TextModel, points: Sequence[Point], group: Any
    ) -> None:
        self._forward, self._group = forward, group
        self._model, self._points = model, points
        self._telling = False
        self._owners: dict[str, int] | None = None

    @property
    def stop_after(self) -> str | None:
        """The layer that forwards end after."""
        return self._forward.stop_after

    @property
    def leads(self) -> bool:
        """Whether this process is the one that makes the run."""
        return distributed.get_rank(self._group) == 0

    def __call__(self, documents: Sequence[Sequence[int]]) -> ForwardResult:
        """Run the documents, with the others; raises what `ForwardPass` does, and `NotWhole`."""
        if self._telling:
            self._tell("run", ([[*map(int, each)] for each in documents], torch.get_num_threads()))
        seen = self._forward(documents)
        if self._owners is None:
            self._owners = self._find_owners(seen)
        for name, owner in self._owners.items():
            seen.layers[name] = self._from(owner, seen.layers[name])
        return seen

    # --- what is whose

    def _find_owners(self, seen: ForwardResult) -> dict[str, int]:
        """Return which process has each layer of a pipeline; raises `NotWhole`."""
        index = self._model.layers.index
        mine = {
            point.name: type(index.resolve(point.layer).module).__name__ != "PipelineIdentityLayer"
            for point in self._points
        }
        if has_stages(self._model):
            everyones = self._gathered(mine)
            return {name: [each[name] for each in everyones].index(True) for name in mine}
        samples = {
            name: (list(each.shape), each.reshape(-1)[:SAMPLE].double().cpu())
            for name, each in seen.layers.items()
        }
        for other in self._gathered(samples):
            for name, (shape, values) in samples.items():
                if other[name][0] != shape or not _alike(values, other[name][1]):
                    raise NotWhole(name, distributed.get_world_size(self._group), shape[-1])
        return {}

    def _gathered(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * distributed.get_world_size(self._group)
        distributed.all_gather_object(found, value, group=self._group)
        return found

    def _from(self, owner: int, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        source = distributed.get_global_rank(self._group, owner)
        distributed.broadcast(tensor, src=source, group=self._group)
        return tensor

    # --- leading and following

    def run(self, lead: Callable[[], T]) -> T:
        """Return what `lead` makes in the leader, and raise what it raises, in each."""
        return self._lead(lead) if self.leads else self._follow()

    def _lead(self, lead: Callable[[], T]) -> T:
        self._telling = True
        try:
            made = lead()
        except BaseException as error:
            self._telling = False
            with suppress(Exception):  # the others may be gone, which is why it failed
                self._tell("failed", _as_sent(error))
            raise
        self._telling = False
        self._tell("done", made)
        return made

    def _follow(self) -> Any:
        threads = torch.get_num_threads()
        try:
            while True:
                what, value = self._told()
                if what == "done":
                    return value
                if what == "failed":
                    raise value
                documents, count = value
                torch.set_num_threads(count)  # of the run: it decides the last bits
                with suppress(Exception):  # the leader raises the same, and says what follows
                    self(documents)
        finally:
            torch.set_num_threads(threads)

    def _tell(self, what: str, value: Any) -> None:
        source = distributed.get_global_rank(self._group, 0)
        distributed.broadcast_object_list([(what, value)], src=source, group=self._group)

    def _told(self) -> tuple[str, Any]:
        found: list[Any] = [None]
        source = distributed.get_global_rank(self._group, 0)
        distributed.broadcast_object_list(found, src=source, group=self._group)
        what, value = found[0]
        return what, value


@attrs.define(slots=False)
class LeaderFailed(TenterhookError, RuntimeError):
    """The process that makes the run failed, by what cannot be sent."""

    kind: str
    reason: str

    def __str__(self) -> str:
        return f"The process that makes the run ended by {self.kind}: {self.reason}"


def _as_sent(error: BaseException) -> BaseException:
    try:
        found = pickle.loads(pickle.dumps(error))
    except Exception:  # noqa: BLE001 - whatever it holds
        return LeaderFailed(type(error).__name__, str(error))
    return found if isinstance(found, BaseException) else LeaderFailed(type(error).__name__, "")


def _alike(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    one, other = one.nan_to_num(), other.nan_to_num()
    most = torch.maximum(one.abs().max(), other.abs().max()) if len(one) else torch.zeros(())
    return bool(((one - other).abs() <= APART * most).all())
