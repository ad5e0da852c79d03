"""`ActivationCache`: names, blocks, moving, saving."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from tenterhook_hook_points import (
    ActivationCache,
    AmbiguousName,
    HookedRootModule,
    UnknownActivation,
    UnknownHookPoint,
)
from tenterhook_store import LocalStore, MemoryStore, OtherRun


@pytest.fixture
def cache() -> ActivationCache:
    """Return a cache of 12 blocks, out of order, whose tensors tell their block."""
    held = {"hook_embed": torch.full((2, 3, 4), -1.0)}
    for block in (11, *range(11)):
        for name in ("hook_resid_post", "attn.hook_q", "ln1.hook_scale", "ln2.hook_scale"):
            held[f"blocks.{block}.{name}"] = torch.full((2, 3, 4), float(block))
        held[f"blocks.{block}.hook_resid_post_grad"] = torch.full((2, 3, 4), block + 0.5)
    held["ln_final.hook_scale"] = torch.ones(2, 3, 1)
    return ActivationCache(held)


class TestNames:
    """Full names and short ones."""

    def test_what_it_knows(self, cache: ActivationCache) -> None:
        """Names in order, blocks by number."""
        assert cache.names == list(cache)
        assert cache.layers == list(range(12))
        assert cache.has_batch_dim
        assert ActivationCache().layers == []
        assert "hook_embed" in cache
        assert "embed" not in cache

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("blocks.3.attn.hook_q", 3),
            (("q", 3), 3),
            (("attn.q", 3), 3),
            (("attn.hook_q", 10), 10),
            (("resid_post", -1), 11),
            (("resid_post", -12), 0),
            (("scale", 5, "ln1"), 5),
            (("q", 5, "attn"), 5),
            (("q", 5, None), 5),
            (("resid_post_grad", 2), 2.5),
            ("embed", -1),
            ("hook_embed", -1),
            ("scale", 1),
            ("ln_final.scale", 1),
        ],
    )
    def test_short(self, key: Any, value: float, cache: ActivationCache) -> None:
        """The end of a name, with or without `hook_`, and the block."""
        assert cache[key][0, 0, 0].item() == value

    @pytest.mark.parametrize(
        "key",
        [
            "embod",
            ("q", 12),
            ("q", -13),
            ("k", 0),
            ("hook", 0),
            (),
            (1,),
            ("q", 1, "mlp"),
            ("q",),
            3,
        ],
    )
    def test_unknown(self, key: Any, cache: ActivationCache) -> None:
        """What is not there is an error that names the closest."""
        with pytest.raises(
            UnknownActivation, match=r"Closest: '.*cache\.names has them all"
        ) as caught:
            cache[key]
        assert isinstance(caught.value, KeyError)
        assert cache.get(key) is None

    def test_empty(self) -> None:
        """An empty cache says that it is."""
        with pytest.raises(UnknownActivation, match="which is empty"):
            ActivationCache()["x"]

    def test_ambiguous(self, cache: ActivationCache) -> None:
        """A short name of two points names both."""
        with pytest.raises(AmbiguousName, match=r"'blocks\.0\.ln1\.hook_scale', 'blocks\.0\.ln2"):
            cache["scale", 0]
        with pytest.raises(AmbiguousName, match=r"'ln1\.hook_scale', 'ln2\.hook_scale'.*more of"):
            cache.stack("scale")

    def test_repr(self, cache: ActivationCache) -> None:
        """How much it holds, and of what; no numbers."""
        assert repr(cache).startswith("ActivationCache(62 tensors, 5,880 bytes: hook_embed, ")
        assert "attn.hook_q x12" in repr(cache)
        assert "tensor(" not in repr(cache)


class TestStack:
    """A point across blocks."""

    @pytest.mark.parametrize("name", ["resid_post", "hook_resid_post"])
    def test_in_order(self, name: str, cache: ActivationCache) -> None:
        """By the block's number, 2 before 10."""
        stacked = cache.stack(name)
        assert stacked.shape == (12, 2, 3, 4)
        assert stacked[:, 0, 0, 0].tolist() == list(range(12))
        assert torch.equal(cache.stack_activation(name), stacked)

    def test_more_of_the_name(self, cache: ActivationCache) -> None:
        """What tells two points of a block apart, and gradients."""
        assert torch.equal(cache.stack("ln2.scale"), cache.stack("resid_post"))
        assert torch.equal(cache.stack("resid_post_grad"), cache.stack("resid_post") + 0.5)

    def test_of_a_model(self, model: HookedRootModule, x: Tensor) -> None:
        """What the model's points saw."""
        _, cache = model.run_with_cache(x)
        assert torch.equal(cache.stack("resid_post")[1], model(x))
        assert torch.equal(cache["mlp.post", 0], cache["blocks.0.mlp.hook_post"])

    def test_none(self, cache: ActivationCache) -> None:
        """A point that no block has, or of several shapes."""
        with pytest.raises(UnknownActivation):
            cache.stack("embed")
        cache["blocks.3.hook_resid_post"] = torch.ones(1)
        with pytest.raises(ValueError, match=r"several shapes.*blocks\.3\.hook_resid_post \(1,\)"):
            cache.stack("resid_post")


class TestMoving:
    """Device, dtype, batch axis, copies."""

    def test_dtype(self, cache: ActivationCache) -> None:
        """Floating-point tensors are cast, others are not; the cache itself comes back."""
        cache["hook_mask"] = torch.ones(2, 3, dtype=torch.bool)
        assert cache.to(torch.float64) is cache
        assert cache["embed"].dtype is torch.float64
        assert cache["mask"].dtype is torch.bool
        assert cache.to("cpu", torch.float16)["embed"].dtype is torch.float16
        assert cache.to("meta")["embed"].is_meta
        assert cache.to(device="meta", dtype=torch.bfloat16)["embed"].dtype is torch.bfloat16

    def test_batch_axis(self, cache: ActivationCache) -> None:
        """A batch of one is taken away, once; another is refused and nothing changes."""
        with pytest.raises(ValueError, match="only a batch of one"):
            cache.remove_batch_dim()
        assert cache["embed"].shape == (2, 3, 4)
        single = ActivationCache({name: tensor[:1] for name, tensor in cache.items()})
        assert single.remove_batch_dim() is single
        assert single["embed"].shape == (3, 4)
        assert not single.has_batch_dim
        assert single.remove_batch_dim()["embed"].shape == (3, 4)

    def test_copies(self, cache: ActivationCache) -> None:
        """Copies and pickles are caches that know the same."""
        cache.has_batch_dim = False
        for other in (cache.copy(), copy.deepcopy(cache), pickle.loads(pickle.dumps(cache))):
            assert type(other) is ActivationCache
            assert other.names == cache.names
            assert not other.has_batch_dim


class TestSaving:
    """Into a run of a store."""

    @pytest.mark.parametrize("kind", ["memory", "local"])
    def test_rows(self, kind: str, tmp_path: Any) -> None:
        """A row per token, in the order of the batch, padding left out, further axes made one."""
        store = MemoryStore() if kind == "memory" else LocalStore(tmp_path / "store")
        q = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2).to(torch.bfloat16)
        cache = ActivationCache({"blocks.0.attn.hook_q": q, "hook_embed": torch.randn(2, 3, 5)})
        tokens = torch.tensor([[7, 8, 9], [1, 5, 6]])
        mask = torch.tensor([[1, 1, 1], [0, 1, 1]])
        assert cache.save(store, "mine", tokens=tokens, mask=mask) == "mine"
        run = store.run("mine")
        assert run.is_complete
        assert run.layers == ("blocks.0.attn.hook_q", "hook_embed")
        kept = mask.bool()
        assert torch.equal(run["blocks.0.attn.hook_q"][:], q[kept].flatten(1))
        assert torch.equal(run["hook_embed"][:], cache["hook_embed"][kept])
        assert run.tokens[:].tolist() == [7, 8, 9, 5, 6]
        assert run.documents.rows(1) == slice(3, 5)
        assert run.documents.position[:].tolist() == [0, 1, 2, 0, 1]
        assert run.metadata["shapes"] == {"blocks.0.attn.hook_q": [2, 2], "hook_embed": [5]}

    def test_again(self) -> None:
        """The same is left as it is; something else under that name is refused."""
        store = MemoryStore()
        cache = ActivationCache({"hook_embed": torch.zeros(1, 3, 2)})
        cache.save(store, "mine")
        cache.save(store, "mine")
        assert store.run("mine").tokens[:].tolist() == [-1, -1, -1]
        cache["hook_embed"] = torch.ones(1, 3, 2)
        with pytest.raises(OtherRun):
            cache.save(store, "mine")

    def test_without_batch(self) -> None:
        """`(seq, ...)` is one document."""
        store = MemoryStore()
        cache = ActivationCache({"hook_embed": torch.randn(3, 2)}, has_batch_dim=False)
        cache.save(store, "mine", tokens=torch.tensor([[4, 5, 6]]))
        run = store.run("mine")
        assert torch.equal(run["hook_embed"][:], cache["hook_embed"])
        assert run.tokens[:].tolist() == [4, 5, 6]

    def test_some(self, model: HookedRootModule, x: Tensor) -> None:
        """A filter takes names as everywhere."""
        _, cache = model.run_with_cache(x)
        store = MemoryStore()
        cache.save(store, "mine", names_filter="blocks.*.hook_resid_post")
        assert store.run("mine").layers == (
            "blocks.0.hook_resid_post",
            "blocks.1.hook_resid_post",
        )
        with pytest.raises(UnknownHookPoint):
            cache.save(store, "other", names_filter="blocks.*.hook_q")

    def test_what_does_not_fit(self) -> None:
        """Tensors without a row per token are named, and nothing is begun."""
        store = MemoryStore()
        cache = ActivationCache(
            {
                "hook_embed": torch.zeros(1, 3, 2),
                "hook_resid": torch.zeros(1, 3, 2),
                "hook_pattern": torch.zeros(1, 4, 3, 3),
            }
        )
        with pytest.raises(ValueError, match=r"\(1, 3, \.\.\.\); 1 are not: hook_pattern \(1, 4"):
            cache.save(store, "mine")
        with pytest.raises(ValueError, match=r"tokens is \(1, 4\)|3 are not"):
            cache.save(store, "mine", tokens=torch.zeros(1, 9))
        with pytest.raises(ValueError, match=r"mask is \(1, 4\), and the tokens are \(1, 3\)"):
            cache.save(store, "mine", mask=torch.ones(1, 4), names_filter="hook_embed")
        with pytest.raises(ValueError, match="nothing to save: mask is true nowhere"):
            cache.save(store, "mine", mask=torch.zeros(1, 3), names_filter="hook_embed")
        with pytest.raises(ValueError, match="nothing to save: the cache"):
            ActivationCache().save(store, "mine")
        assert store.runs() == []
