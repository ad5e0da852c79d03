"""What a store does with tensors by name."""

from typing import Any

import pytest
import torch

from tenterhook_store import BadName, CannotKeep, NameTaken, Store, UnknownTensor
from tenterhook_store.testing.bad_names import BAD_NAMES
from tenterhook_store.testing.small_runs import same_bits


class TensorTests:
    """Tensors come back bit for bit, by names that are safe."""

    @pytest.mark.parametrize(
        "dtype",
        [
            torch.float32,
            torch.float64,
            torch.float16,
            torch.bfloat16,
            torch.float8_e4m3fn,
            torch.int8,
            torch.int64,
            torch.uint8,
            torch.uint16,
            torch.bool,
            torch.complex64,
        ],
        ids=lambda dtype: str(dtype).removeprefix("torch."),
    )
    @pytest.mark.parametrize("shape", [(), (1,), (0, 3), (2, 3, 4)], ids=str)
    def test_tensor_comes_back_bit_for_bit(
        self, store: Store, dtype: torch.dtype, shape: tuple[int, ...]
    ) -> None:
        """Every dtype and shape comes back as it was."""
        size = torch.Size(shape).numel() * dtype.itemsize
        generator = torch.Generator().manual_seed(0)
        top = 2 if dtype is torch.bool else 256
        noise = torch.randint(0, top, (size,), dtype=torch.uint8, generator=generator)
        tensor = noise.view(dtype).reshape(shape)
        store.save_tensor("t", tensor)
        assert same_bits(store.load_tensor("t"), tensor)

    def test_tensor_that_is_a_view(self, store: Store) -> None:
        """Transposed, expanded and conjugated tensors are saved by their values."""
        tensor = torch.arange(6.0).reshape(2, 3).to(torch.complex64).mul(1j).conj().T
        store.save_tensor("t", tensor)
        assert torch.equal(store.load_tensor("t"), tensor)

    def test_tensor_that_needs_gradients(self, store: Store) -> None:
        """A parameter is saved by its values."""
        store.save_tensor("t", torch.nn.Parameter(torch.ones(2)))
        assert not store.load_tensor("t").requires_grad

    def test_tensor_is_a_copy(self, store: Store) -> None:
        """Neither what was saved nor what was loaded is tied to the store."""
        tensor = torch.ones(2)
        store.save_tensor("t", tensor)
        tensor.zero_()
        store.load_tensor("t").zero_()
        assert store.load_tensor("t").tolist() == [1, 1]

    def test_tensor_is_replaced(self, store: Store) -> None:
        """Saving under a name again replaces what was there, whatever its shape and dtype."""
        store.save_tensor("a/b", torch.ones(2))
        store.save_tensor("a/b", torch.zeros(3, 1, dtype=torch.int8))
        assert same_bits(store.load_tensor("a/b"), torch.zeros(3, 1, dtype=torch.int8))
        assert store.list_tensors() == ["a/b"]

    def test_names_have_parts(self, store: Store) -> None:
        """A name may begin with another; names are listed sorted, as they were given."""
        names = ["a/b", "a", "ü 100%/ß", "a/b/c", "a%2Fb", "Layer.0"]
        for number, name in enumerate(names):
            store.save_tensor(name, torch.tensor(number))
        assert store.list_tensors() == sorted(names)
        assert [store.load_tensor(name).item() for name in names] == list(range(len(names)))

    def test_longest_name(self, store: Store) -> None:
        """A name of 200 bytes is kept, whatever it is made of."""
        for name in ("x" * 200, "%" * 200, "ü" * 100):
            store.save_tensor(name, torch.tensor(1))
        assert len(store.list_tensors()) == 3

    @pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
    def test_bad_tensor_name(self, store: Store, name: str) -> None:
        """A name that could leave the store, or fit no file system, is refused."""
        with pytest.raises(BadName, match="cannot name a tensor"):
            store.save_tensor(name, torch.ones(1))
        with pytest.raises(BadName):
            store.load_tensor(name)
        assert store.list_tensors() == []

    def test_name_that_is_no_string(self, store: Store) -> None:
        """A name must be a string."""
        with pytest.raises(BadName, match="int"):
            store.save_tensor(3, torch.ones(1))  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["LAYER/ü", "layer/u\u0308"])
    def test_name_that_some_systems_confuse(self, store: Store, name: str) -> None:
        """Names that differ in case or composition alone do not stand side by side."""
        store.save_tensor("layer/ü", torch.ones(1))
        with pytest.raises(NameTaken, match="file systems"):
            store.save_tensor(name, torch.ones(1))

    def test_unknown_tensor(self, store: Store) -> None:
        """A tensor that is not there is a `LookupError` with the nearest names."""
        store.save_tensor("direction", torch.ones(1))
        with pytest.raises(UnknownTensor, match="Did you mean 'direction'") as caught:
            store.load_tensor("directoin")
        assert isinstance(caught.value, LookupError)

    @pytest.mark.parametrize("value", [[1.0], 3, None], ids=str)
    def test_what_is_no_tensor(self, store: Store, value: Any) -> None:
        """It is refused, by its type."""
        with pytest.raises(CannotKeep, match=f"{type(value).__name__} objects, only tensors"):
            store.save_tensor("x", value)
        with pytest.raises(TypeError, match=r"sparse_coo tensors\. Make it dense"):
            store.save_tensor("x", torch.ones(1).to_sparse())
        assert store.list_tensors() == []

    def test_deleting_a_tensor(self, store: Store) -> None:
        """It is gone, the others stay, and its name can be used again."""
        store.save_tensor("a", torch.ones(1))
        store.save_tensor("a/b", torch.zeros(1))
        store.delete_tensor("a")
        assert store.list_tensors() == ["a/b"]
        for look in (store.load_tensor, store.delete_tensor):
            with pytest.raises(UnknownTensor):
                look("a")
        store.save_tensor("A", torch.ones(2))
        assert store.load_tensor("A").tolist() == [1, 1]
