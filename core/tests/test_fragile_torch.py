"""What we lean on in torch and Python that nobody promised us; see docs/explanation/fragile.md.

Each of these fails alone, and by name, where a new version takes something away; what it is good
for is tested where it is used.
"""

import asyncio
from asyncio import _get_running_loop

import torch
from torch import nn

import tenterhook
from tenterhook.hooks import Detector


class _Sees(Detector):
    def process_activations(self, module: nn.Module, input: object, output: object) -> None:
        self.metadata["ran"] = True


def test_torch_gives_no_negative_id() -> None:
    """Our torch hook has a key below 0 among those of others, which count up from 0."""
    module = nn.Identity()
    model = tenterhook.attach(nn.Sequential(module))
    theirs = [module.register_forward_hook(lambda *_: None) for _ in range(3)]

    model.layers.register_hook("0", _Sees())

    assert all(handle.id >= 0 for handle in theirs)
    (ours,) = module._forward_hooks.keys() - {handle.id for handle in theirs}
    assert ours < 0


def test_a_key_of_ours_is_called_with_keyword_inputs() -> None:
    """torch looks a hook's flag up by its key, in `_forward_hooks_with_kwargs`."""
    module, seen = nn.Identity(), list[object]()
    module._forward_hooks_with_kwargs[-7] = True

    module._forward_hooks[-7] = lambda *given: seen.extend(given[1:3])
    module(input=1)

    assert seen == [(), {"input": 1}]


def test_the_state_dict_hooks_take_an_attribute() -> None:
    """Sites are kept there: the dictionary is an `OrderedDict`, and each module has its own."""
    one, other = nn.Identity(), nn.Identity()

    one._state_dict_hooks.ours = 1  # type: ignore[attr-defined]

    assert not hasattr(other._state_dict_hooks, "ours")
    assert one.state_dict() == {}


def test_a_thread_knows_whether_a_loop_runs_in_it() -> None:
    """`asyncio._get_running_loop` raises nothing where none does, and so is cheap."""

    async def within() -> object:
        return _get_running_loop()

    assert _get_running_loop() is None
    assert asyncio.run(within()) is not None


def test_versions_count_writes() -> None:
    """`Tensor._version` rises with each write in place, also through a view; not by `.data`."""
    tensor = torch.zeros(2, 2)
    before = tensor._version

    tensor[0].add_(1)
    assert tensor._version == before + 1

    tensor.data.add_(1)
    assert tensor._version == before + 1
