"""Edits of an activation that need no function of the user's own.

What they share is here once: where the activation is, which of its features change, and how a
tensor of the user's follows the layer's device and dtype. Which tokens and rows change is the
scope's to say: `model.steer(layer, edit, tokens="last")`.
"""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from tenterhook.hooks import Edit, HookType
from tenterhook_selections import Selection, Where
from tenterhook_selections.generation import copies_of, running_generation


class _Edit(Edit):
    """A controller that makes of one activation another of the same shape and dtype."""

    reads_only = True

    def __init__(
        self,
        layer_signature: str | int,
        *,
        features: Where | None = None,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
    ) -> None:
        """`features` are indices along the last axis; the others stay bit for bit what they were.

        Takes indices, a slice or `"2:5"`, as `tenterhook.Selection` does. The edit itself is made
        of the whole activation, so that vectors keep the layer's full width.
        """
        super().__init__(hook_type, hook_id, layer_signature)
        self._features = None if features is None else Selection(features=features)
        self._masks: dict[tuple[int, torch.device], Tensor] = {}
        self._converted: dict[tuple[torch.device, torch.dtype], tuple[Any, ...]] = {}

    @classmethod
    def elements(cls, parameters: Mapping[str, Any]) -> int:
        """Return how many elements the tensors among these parameters have; see `model.scoped`."""
        return sum(value.numel() for value in parameters.values() if isinstance(value, Tensor))

    @classmethod
    def width(cls, parameters: Mapping[str, Any]) -> int | None:
        """Return how many features its layer must have; `None` where any will do."""
        tensors = (value for value in parameters.values() if isinstance(value, Tensor))
        return next((tensor.shape[-1] for tensor in tensors if tensor.ndim), None)

    @property
    def features(self) -> Where | None:
        """Which indices along the last axis change; `None` for all."""
        return None if self._features is None else self._features.features

    @abstractmethod
    def _edited(self, activation: Tensor) -> Tensor | None:
        """Return what takes the activation's place in memory of its own, `None` for no change."""

    def function(self, activation: Tensor) -> Tensor | None:
        """Return the edited activation; before the module ran, the edited first input."""
        if activation.dtype not in _FLOATS and not activation.is_floating_point():
            raise TypeError(
                f"{type(self).__name__} edits floating-point activations, and this one is "
                f"{activation.dtype}. Put it on a layer that takes or returns vectors."
            )
        if activation.is_nested and (self._features or activation.layout is not torch.jagged):
            raise TypeError(
                f"{type(self).__name__} edits a nested tensor of layout=torch.jagged, all features "
                f"of it; this one is {activation.layout}. Make it so, or pad it."
            )
        new = self._edited(activation)
        if new is None or self._features is None:
            return new
        return torch.where(self._mask(self._features, activation), new, activation)

    def _mask(self, features: Selection, activation: Tensor) -> Tensor:
        """Return which features change, bool `(features,)`."""
        width, device = activation.shape[-1], activation.device
        mask: Tensor | None = self._masks.get((width, device))
        if mask is None:
            compiling = torch.compiler.is_compiling()
            with nullcontext() if compiling else _for_any_mode():
                mask = torch.zeros(width, dtype=torch.bool, device=device)
                mask[features.feature_index(width, device)] = True
            if not compiling:
                self._masks[width, device] = mask
        return mask

    def _following(
        self, source: Tensor, like: Tensor, make: Callable[[Tensor], Tensor] | None, *settings: Any
    ) -> Tensor:
        """Return `make(source)`, made in float32 or better, on the device, in the dtype of `like`.

        With `make=None` it is `source` itself, where that is like `like` already. Else kept for the
        next call, unless gradients flow into `source`, and made anew when `source` or `settings`
        are no longer what they were. On an accelerator, where comparing would wait for the device,
        torch's count of writes tells; it misses those through `source.data`.
        """

        if make is None and source.dtype == like.dtype and source.device == like.device:
            return source

        def made() -> Tensor:
            wide = source.to(torch.promote_types(source.dtype, torch.float32))
            return (wide if make is None else make(wide)).to(like.device, like.dtype)

        if torch.compiler.is_compiling() or source.requires_grad or source.is_inference():
            return made()
        key = like.device, like.dtype
        state = source._version, settings
        then, state_then, seen, value = self._converted.get(key, (None, None, source, source))
        same = then is source and state_then == state
        if not same or (source.is_cpu and not torch.equal(seen, source)):
            with _for_any_mode():
                seen = source.clone() if source.is_cpu else source
                value = made()
            self._converted[key] = source, state, seen, value
        converted: Tensor = value
        return converted

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy or pickle holds; it converts its tensors itself."""
        return {**super().__getstate__(), "_converted": {}}


class AddVector(_Edit):
    """Adds `coefficient * vector` at every token: a steering vector.

    Activation addition: Turner et al. 2023, arXiv:2308.10248.
    """

    def __init__(
        self,
        layer_signature: str | int,
        vector: Tensor,
        coefficient: float = 1.0,
        *,
        normalize: bool = False,
        features: Where | None = None,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
    ) -> None:
        """`vector` is `(features,)`, or `(batch, features)` with one for each row of the batch, and
        for all beams or samples of it; of any real dtype, on any device. With `normalize`, the
        unit vector along each is added.

        It is read at every call and never written to: a `torch.nn.Parameter` learns, and what is
        written to it counts from the next call on. The product is made in float32 or better and
        then takes the activation's dtype.

        Raises `TypeError` or `ValueError` for what is no finite vector or number, and for a zero
        vector to `normalize`. A width that is not the layer's, or another number of rows, is a
        `HookError` when it runs.
        """
        super().__init__(layer_signature, features=features, hook_type=hook_type, hook_id=hook_id)
        self.vector = _finite("vector", vector, "(batch, features)")
        self.coefficient = _number("coefficient", coefficient)
        self.normalize = normalize
        if normalize and not vector.any(-1).all():
            raise ValueError(
                "vector is zero, so no unit vector points its way. Start from a small random one, "
                "or leave normalize out."
            )

    def function(self, activation: Tensor) -> Tensor | None:
        """Return the activation with the vector added."""
        # All that the longer way comes to for a vector as it is, the one for all tokens: it takes
        # half the time. test_edits_cost.py, and test_edits_reference.py for what it gives.
        if self.coefficient == 1 and not self.normalize and self._features is None:
            vector = self.vector
            try:
                dtype, shape = activation.dtype, activation.shape
                alike = vector.dtype is dtype and dtype in _FLOATS and vector.ndim == 1
                if alike and shape and vector.shape[0] == shape[-1]:
                    return activation + vector
            except RuntimeError:  # on two devices, or nested
                pass
        return super().function(activation)

    def _edited(self, activation: Tensor) -> Tensor | None:
        vector, coefficient, normalize = self.vector, self.coefficient, self.normalize
        _same_width("vector", vector, activation)
        if coefficient == 0 and not vector.requires_grad:
            return None

        def scaled(wide: Tensor) -> Tensor:
            return coefficient * (_unit(wide) if normalize else wide)

        make = None if coefficient == 1 and not normalize else scaled
        added = self._following(vector, activation, make, coefficient, normalize)
        return activation + (added if added.ndim == 1 else _by_row(added, activation))


class ProjectOut(_Edit):
    """Removes the component along one or several directions; doing it twice changes nothing more.

    Directional ablation: Arditi et al. 2024, arXiv:2406.11717, section 2.4.
    """

    def __init__(
        self,
        layer_signature: str | int,
        directions: Tensor,
        *,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
    ) -> None:
        """`directions` is `(features,)` or `(n, features)`, of any real dtype and any lengths.

        What they span is removed: they are made orthonormal, and one that the others span already
        counts once. Gradients flow into a `torch.nn.Parameter`. Computed in float32 or better,
        autocast or not, and returned in the activation's dtype. There is no choice of features:
        zero the others in `directions`.

        Raises `TypeError` or `ValueError` for what is no finite tensor of such a shape, and for a
        direction of zeros. A width that is not the layer's is a `HookError` when it runs.
        """
        super().__init__(layer_signature, hook_type=hook_type, hook_id=hook_id)
        self.directions = _finite("directions", directions, "(n, features)")
        if not directions.numel():
            raise ValueError(f"directions is empty, {tuple(directions.shape)}. Give at least one.")
        zero = ~directions.reshape(-1, directions.shape[-1]).any(-1)
        if zero.any():
            at = int(zero.nonzero()[0])
            raise ValueError(f"Direction {at} of directions is zero. Leave it out.")

    def _edited(self, activation: Tensor) -> Tensor:
        _same_width("directions", self.directions, activation)
        dtype = activation.dtype
        wide = torch.promote_types(dtype, torch.float32)
        x = activation if dtype is wide else activation.to(wide)
        with _no_autocast(x.device.type):
            basis = self._following(self.directions, x, _orthonormal)
            new = x - (x @ basis.T) @ basis
        return new if dtype is wide else new.to(dtype)


class Clamp(_Edit):
    """Keeps every entry between two bounds; entries between them stay bit for bit, as do NaNs."""

    def __init__(
        self,
        layer_signature: str | int,
        minimum: float | None = None,
        maximum: float | None = None,
        *,
        features: Where | None = None,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
    ) -> None:
        """A bound left out does not bind; one beyond the dtype's range is its largest number.

        Raises `TypeError` or `ValueError` for what is no number, where both bounds are missing,
        and where `minimum` is above `maximum`.
        """
        super().__init__(layer_signature, features=features, hook_type=hook_type, hook_id=hook_id)
        if minimum is None and maximum is None:
            raise ValueError("Clamp needs a bound: give minimum, maximum, or both.")
        self.minimum = None if minimum is None else _number("minimum", minimum, infinite=True)
        self.maximum = None if maximum is None else _number("maximum", maximum, infinite=True)
        if minimum is not None and maximum is not None and minimum > maximum:
            raise ValueError(f"minimum={minimum} is above maximum={maximum}. Swap them.")

    def _edited(self, activation: Tensor) -> Tensor:
        dtype = activation.dtype
        return activation.clamp(_in_range(self.minimum, dtype), _in_range(self.maximum, dtype))


class Scale(_Edit):
    """Multiplies by a number."""

    def __init__(
        self,
        layer_signature: str | int,
        factor: float,
        *,
        features: Where | None = None,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
    ) -> None:
        """Raises `TypeError` or `ValueError` where `factor` is no finite number."""
        super().__init__(layer_signature, features=features, hook_type=hook_type, hook_id=hook_id)
        self.factor = _number("factor", factor)

    def _edited(self, activation: Tensor) -> Tensor | None:
        return None if self.factor == 1 else activation * self.factor


class ZeroAblate(_Edit):
    """Puts zeros in place of the activation, NaNs included; no gradient flows through them."""

    def _edited(self, activation: Tensor) -> Tensor:
        return torch.zeros_like(activation)


class MeanAblate(_Edit):
    """Puts a given mean in place of the activation; no gradient flows into the layer."""

    def __init__(
        self,
        layer_signature: str | int,
        mean: Tensor,
        *,
        features: Where | None = None,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
    ) -> None:
        """`mean` is `(features,)`, or `(seq, features)` for activations `(batch, seq, features)`.

        Of any real dtype, on any device; read at every call. Raises `TypeError` or `ValueError`
        for what is no finite tensor of such a shape. One that does not fit the layer is a
        `HookError` when it runs.
        """
        super().__init__(layer_signature, features=features, hook_type=hook_type, hook_id=hook_id)
        self.mean = _finite("mean", mean, "(seq, features)")

    def _edited(self, activation: Tensor) -> Tensor:
        mean, shape = self.mean, activation.shape
        _same_width("mean", mean, activation)
        if mean.ndim == 2 and (len(shape) < 3 or shape[-2] != mean.shape[0]):
            raise ValueError(
                f"mean is (seq, features) of {tuple(mean.shape)}, and the activation of shape "
                f"{tuple(shape)} has no such axes at its end. Give a mean (features,), or run at "
                f"{mean.shape[0]} tokens; phase='prompt' leaves the steps of a generation out."
            )
        return self._following(mean, activation, None).expand(shape).clone()


class Patch(_Edit):
    """Puts the activation of another run in place; no gradient flows into the layer.

    Activation patching: Vig et al. 2020, arXiv:2004.12265; Meng et al. 2022, arXiv:2202.05262.
    """

    def __init__(
        self,
        layer_signature: str | int,
        source: Tensor,
        *,
        features: Where | None = None,
        hook_type: HookType | str = HookType.FORWARD,
        hook_id: str | None = None,
    ) -> None:
        """`source` has the shape of the activation, as `captured.last(layer)` of a run on inputs
        of the same shape gives it; any real dtype, any device. Each call puts in a copy.

        Raises `TypeError` where `source` is no tensor. Another shape than the activation's is a
        `HookError` when it runs: nothing is repeated unasked.
        """
        super().__init__(layer_signature, features=features, hook_type=hook_type, hook_id=hook_id)
        self.source = _tensor("source", source)

    def _edited(self, activation: Tensor) -> Tensor:
        source = self.source
        if source.shape != activation.shape:
            raise ValueError(
                f"source has shape {tuple(source.shape)}, and the activation has "
                f"{tuple(activation.shape)}. Capture it in a run of that shape, or repeat it with "
                "source.expand(...); phase='prompt' leaves the steps of a generation out."
            )
        if source.dtype == activation.dtype and source.device == activation.device:
            return source.clone()  # sooner than by `to`
        return source.to(activation.device, activation.dtype, copy=True)


_FLOATS = frozenset({torch.float16, torch.bfloat16, torch.float32, torch.float64})
"""The usual floating dtypes: looked up in half the time that `is_floating_point` takes."""


def _tensor(name: str, value: Tensor) -> Tensor:
    """Return the tensor as it is; `TypeError` for anything else, and for complex numbers."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is a {type(value).__name__}, not a tensor. Give a torch.Tensor.")
    if value.is_complex():
        raise TypeError(f"{name} is {value.dtype}. Give a tensor of real numbers.")
    return value


def _finite(name: str, value: Tensor, of_two: str = "") -> Tensor:
    """Return a tensor of one axis, or of two where `of_two` says which.

    Raises `ValueError` for other shapes, and for NaN and infinity.
    """
    axes = _tensor(name, value).ndim
    if axes != 1 and not (axes == 2 and of_two):
        wanted = " or ".join(["(features,)", *filter(None, [of_two])])
        raise ValueError(f"{name} has shape {tuple(value.shape)}. Give one of shape {wanted}.")
    if not value.is_meta and not value.isfinite().all():
        raise ValueError(f"{name} holds NaN or infinity. Give finite numbers.")
    return value


def _number(name: str, value: Any, *, infinite: bool = False) -> float:
    """Return the number; `TypeError` or `ValueError` for what is none."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is a {type(value).__name__}. Give a number.")
    if math.isnan(value) or (math.isinf(value) and not infinite):
        raise ValueError(f"{name}={value} is not a finite number. Give one.")
    return float(value)


def _same_width(name: str, vector: Tensor, activation: Tensor) -> None:
    """Raise `ValueError` where the last axes differ."""
    if not activation.ndim or vector.size(-1) != activation.size(-1):
        raise ValueError(
            f"{name} has {vector.shape[-1]} features, and the activation of shape "
            f"{tuple(activation.shape)} has {activation.shape[-1] if activation.ndim else 'none'}. "
            "Give one as wide as the layer."
        )


def _by_row(vectors: Tensor, activation: Tensor) -> Tensor:
    """Return `(batch, features)` with axes to add it to each row; `ValueError` if it cannot be."""
    batch, shape = len(vectors), activation.shape
    if len(shape) > 1 and shape[0] != batch:
        generation = running_generation()
        if generation is not None and len(generation.prompt) == batch:
            vectors = vectors.repeat_interleave(copies_of(shape[0], generation), 0)
    if len(shape) < 2 or shape[0] != len(vectors):
        raise ValueError(
            f"vector has {batch} rows, one for each row of the batch, and the activation has shape "
            f"{tuple(shape)}. Give one of shape (features,) or ({shape[0] if shape else 1}, "
            "features); a layer that takes batch and tokens as one axis cannot have one a row. "
            "With beams or samples the batch is known in LanguageModel.generate and in scopes with "
            "a selection; elsewhere give vector.repeat_interleave(beams, 0)."
        )
    for _ in shape[2:]:
        vectors = vectors.unsqueeze(1)
    return vectors


_SMALL = 65504.0
"""What every floating dtype that is computed with has room for: the largest float16."""


def _in_range(bound: float | None, dtype: torch.dtype) -> float | None:
    """Return the bound, or the largest number of the dtype where it lies beyond."""
    if bound is None or abs(bound) <= _SMALL or math.isinf(bound):
        return bound
    limits = torch.finfo(dtype)
    return min(max(bound, limits.min), limits.max)


def _unit(vector: Tensor) -> Tensor:
    """Return the unit vector along `vector`, also where the squares leave the dtype's range.

    Along each row where it has two axes.
    """
    largest = vector.detach().abs().amax(-1, keepdim=True)
    largest = largest.clamp_min(torch.finfo(vector.dtype).tiny)
    return nn.functional.normalize(vector / largest, dim=-1)


def _orthonormal(directions: Tensor) -> Tensor:
    """Return rows that span what `directions` span, orthonormal; zeros for those in excess.

    Gram-Schmidt, each row done twice, which is enough for orthogonality to rounding.
    """
    rounding = 100 * torch.finfo(directions.dtype).eps
    first, *others = directions.reshape(-1, directions.shape[-1])
    rows = _unit(first)[None]
    for direction in others:
        new = _unit(direction)
        new = new - (rows @ new) @ rows
        is_new = new.norm() > rounding
        new = _unit(new)
        new = _unit(new - (rows @ new) @ rows) * is_new
        rows = torch.cat([rows, new[None]])
    return rows


def _for_any_mode() -> Any:
    """Make tensors that autograd can use, whatever mode the call that makes them is in."""
    return torch.inference_mode(False)


def _no_autocast(device_type: str) -> Any:
    """Keep autocast from rounding a product to half precision."""
    # Not there for some devices, such as meta; and the context takes longer than all the rest.
    available = torch.amp.is_autocast_available(device_type)
    if not available or not torch.is_autocast_enabled(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)
