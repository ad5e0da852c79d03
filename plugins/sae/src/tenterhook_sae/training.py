"""Training an SAE on batches of activations, with checkpoints that resume to the same numbers."""

import json
import math
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors.torch import save_file
from torch import Tensor

from tenterhook import TenterhookError
from tenterhook.one_line import error_line, printable
from tenterhook_sae.batches import Batches, batch_name
from tenterhook_sae.dead_latents import auxiliary_loss, resample, thresholds_of
from tenterhook_sae.errors import (
    BadSetting,
    Diverged,
    NoRows,
    NotFinite,
    OtherCheckpoint,
    SaeExists,
    UnreadableSae,
    WrongParts,
    WrongWidth,
)
from tenterhook_sae.evaluation import explained
from tenterhook_sae.files import CONFIG, FileName, in_place, save_sae, write_json
from tenterhook_sae.loop import Lane, run_lanes
from tenterhook_sae.penalised_training import penalised_pass
from tenterhook_sae.progress import ProgressCallback
from tenterhook_sae.reading import WeightFile, parse_object
from tenterhook_sae.sae import Sae, sae_parts
from tenterhook_sae.settings import TrainingSettings
from tenterhook_sae.sparse_training import sparse_pass
from tenterhook_store import NotWritable
from tenterhook_store.structuring import structured

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "training.json"


class Trainer:
    """Trains one SAE, step by step; `train_sae` runs it to its end."""

    def __init__(
        self, sae: Sae, batches: Batches, settings: TrainingSettings | None = None
    ) -> None:
        """Raises `WrongWidth` where batches and SAE do not fit, naming both, and `BadSetting` for
        an SAE in float16, and for more steps than a run that is followed has batches (each a
        `ValueError`).
        """
        self.sae = sae
        self.batches = batches
        self.settings = TrainingSettings() if settings is None else settings
        self.step = 0
        self.history: list[dict[str, float | None]] = []
        """The progress that was reported, in plain JSON values; `None` for what is no number."""
        most: int | None = getattr(batches, "most_steps", None)
        if most is not None and self.settings.steps > most:
            what = f"{most} or fewer: whoever follows a run reads its rows once"
            raise BadSetting("steps", self.settings.steps, what)
        _check_widths(sae, batches)
        if sae.dtype is torch.float16:
            # AdamW's epsilon is 0 in it, and weights would be NaN.
            valid = "a dtype to train in: make the SAE in float32, with autocast=True for speed"
            raise BadSetting("dtype", sae.dtype, valid)
        self._idle = torch.zeros(sae.n_latents, dtype=torch.int64, device=sae.device)
        """Rows since each latent was active."""
        self._scales: list[float] = []
        """What each of the SAE's `parts` is multiplied by; empty before the first batch."""
        self._latest: list[Tensor] = []
        """The latest batches since training began or was finished, for `calibrate`; see `_keep`."""
        self._optimizer = torch.optim.AdamW(
            sae.parameters(),
            lr=self.settings.learning_rate,
            betas=(self.settings.beta1, self.settings.beta2),
            weight_decay=self.settings.weight_decay,
            fused=True if sae.device.type == "cpu" else None,
        )

    # --- one step

    def train_batch(self, batch: Tensor, *, report: bool = False) -> dict[str, float]:
        """Take one step on rows; with `report`, return what it measured.

        They are `(rows, n_inputs)`, or the SAE's `parts` side by side where it has several, of any
        floating dtype, on any device. What is measured are the fields of `TrainingProgress` from
        `loss` to `learning_rate`; without `report` nothing is. While it is under way the SAE works
        on scaled activations; `finish` puts that right.

        Raises, before anything is changed, `NotFinite` where rows hold NaN, `NoRows` for a batch of
        none (each a `ValueError`), and `Diverged` (a `FloatingPointError`) where the loss is no
        number; on other devices than the CPU that is looked at with `report` alone.
        """
        self.check(batch)
        return self.take_step(batch, report=report)

    def take_step(self, batch: Tensor, *, report: bool = False) -> dict[str, float]:
        """Take one step on rows that `check` let pass; see `train_batch`."""
        sae, settings = self.sae, self.settings
        if not self._scales:
            self._begin(batch)
        self._keep(batch)
        x, target = sae_parts(sae, self._scaled(batch.to(sae.device, sae.dtype)))
        rate = self._schedule()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        kind = sae.device.type
        autocast = kind == "cuda" if settings.autocast is None else settings.autocast
        sparse = None if autocast else sparse_pass(sae, x, target)
        fused = None if autocast or sparse is not None else penalised_pass(sae, x, target)
        penalty: Tensor | None = None
        if sparse is not None:  # of kinds without a penalty
            error = target - sparse.reconstruction
            loss = error.square().mean() + sparse.further_loss
            entries = sparse.latents.values.detach() != 0
            count = entries.sum()
            fired = torch.zeros(sae.n_latents, dtype=torch.bool)
            fired[sparse.latents.indices[entries]] = True
        elif fused is not None:
            error = target - fused.reconstruction
            loss = error.square().mean() + fused.further_loss
            penalty, fired, count = fused.penalty, fused.counts > 0, fused.counts.sum()
        else:
            with torch.autocast(kind, torch.bfloat16, enabled=autocast):
                pre = sae.pre_activations(x)
                latents = sae.training_latents(pre)
                reconstruction = sae.reconstruct(x, latents)
                further = sae.further_loss(target, latents, pre)
            error = target - reconstruction.to(x.dtype)
            loss = error.square().mean() + further
            if settings.sparsity:
                penalty = sae.sparsity_loss(latents.to(x.dtype), pre.to(x.dtype))
            fired = latents.detach().reshape(-1, sae.n_latents).count_nonzero(0) > 0
            count = latents.detach().count_nonzero() if report else fired.sum()
        if penalty is not None and settings.sparsity:
            weight = settings.sparsity * self._warmed(settings.sparsity_warm_up)
            loss = loss + weight * penalty / sae.n_inputs
        self._idle = torch.where(fired, 0, self._idle + len(batch))
        dead = self._idle > settings.dead_after
        if settings.aux:
            loss = loss + settings.aux * auxiliary_loss(
                sae, x, error.detach(), dead, settings.aux_k
            )
        # Elsewhere looking at it would have the host wait for the device in each step.
        if (kind == "cpu" or report) and not math.isfinite(float(loss.detach())):
            raise Diverged(type(sae).__name__, self.step + 1, float(loss.detach()), rate)
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.normalize_decoder:
            self._keep_length_out_of_gradient()
        if settings.clip is not None:
            torch.nn.utils.clip_grad_norm_(sae.parameters(), settings.clip)
        self._optimizer.step()
        self._tidy()
        self.step += 1
        every = settings.resample_every
        if every and self.step % every == 0 and self.step <= 0.75 * settings.steps:
            generator = torch.Generator().manual_seed(
                (settings.seed * 1_000_003 + self.step) % 2**63
            )
            renewed = resample(sae, self._optimizer, x, error.detach(), dead, generator)
            self._idle[renewed] = 0
        if not report:
            return {}
        spread = float((target - target.mean(0)).square().sum())
        squared = float(error.detach().square().sum())
        return {
            "loss": float(loss.detach()),
            "mean_squared_error": self._unscaled(error.detach()),
            "explained_variance": explained(squared, spread, float(target.square().sum())),
            "l0": float(count) / len(batch),
            "dead_share": float(dead.float().mean()),
            "learning_rate": rate,
        }

    def check(self, batch: Tensor) -> None:
        """Raise `NotFinite` for rows with NaN or infinity, `NoRows` for a batch of none."""
        name = batch_name(self.batches, self.step + 1)
        if not len(batch):
            raise NoRows(name, "Batches hold a row at least.")
        if bool(torch.isfinite(batch.sum())):  # one that is not finite makes the sum such
            return
        bad = ~torch.isfinite(batch).all(1)
        if bad.any():
            raise NotFinite(int(bad.sum()), len(batch), name)

    def check_weights(self) -> None:
        """Raise `Diverged` where a weight is NaN or infinite."""
        if not all(bool(torch.isfinite(each).all()) for each in self.sae.parameters()):
            name, rate = type(self.sae).__name__, self.settings.learning_rate
            raise Diverged(name, self.step, math.nan, rate)

    @torch.no_grad()
    def _begin(self, batch: Tensor) -> None:
        """Scale activations to a mean square of 1 per feature, and start from their mean."""
        sae = self.sae
        rows = batch.to(sae.device, torch.float32)
        sizes = [math.sqrt(float(part.square().mean())) for part in rows.split(sae.parts, 1)]  # type: ignore[no-untyped-call]
        # Zeros do not say how large others will be.
        self._scales = [1 / size if size else 1.0 for size in sizes]
        untrained = not sae.b_dec.any()
        # Random weights are as good for each part of a row, whatever its size.
        if not untrained or len(sizes) == 1:
            sae.rescale_parts(self._scales)
        if untrained:
            sae.b_dec.copy_(self._scaled(rows)[:, -sae.n_outputs :].mean(0))

    def _scaled(self, rows: Tensor) -> Tensor:
        """Return rows, `(rows, width)`, with each part times its scale."""
        if len(self._scales) == 1:
            return rows * self._scales[0]
        return rows * self._each_scale(rows)

    def _each_scale(self, rows: Tensor) -> Tensor:
        """Return the scale of each column, `(width,)`, on the device and in the dtype of rows."""
        scales = [rows.new_full((n,), s) for n, s in zip(self.sae.parts, self._scales, strict=True)]
        return torch.cat(scales)

    def _unscaled(self, error: Tensor) -> float:
        """Return the mean square per feature of an error, in the activations' own units."""
        if len(self._scales) == 1:
            return float(error.square().sum()) / error.numel() / self._scales[0] ** 2
        scale = self._each_scale(error)[-self.sae.n_outputs :]
        return float((error / scale).square().mean())

    def _keep(self, batch: Tensor) -> None:
        """Keep a copy of a batch, and no more batches than `calibrate` needs."""
        wanted = self.sae.calibration_rows
        if not wanted:
            return
        self._latest.append(batch.detach().to(self.sae.device, self.sae.dtype, copy=True))
        rows = sum(map(len, self._latest))
        while rows - len(self._latest[0]) >= wanted:
            rows -= len(self._latest.pop(0))

    def _calibration_rows(self) -> Tensor:
        """Return the latest rows, `(rows, n_inputs)`: the same ones wherever training resumed."""
        return torch.cat(self._latest)[-self.sae.calibration_rows :]

    def _warmed(self, share: float) -> float:
        steps = share * self.settings.steps
        return 1.0 if steps < 1 else min(1.0, (self.step + 1) / steps)

    def _schedule(self) -> float:
        settings = self.settings
        falling = settings.decay * settings.steps
        left = settings.steps - self.step
        down = 1.0 if falling < 1 else min(1.0, left / falling)
        return settings.learning_rate * self._warmed(settings.warm_up) * down

    def _keep_length_out_of_gradient(self) -> None:
        decoder = self.sae.W_dec
        if decoder.grad is not None:
            along = (decoder.grad * decoder.detach()).sum(1, keepdim=True)
            decoder.grad -= along * decoder.detach()

    @torch.no_grad()
    def _tidy(self) -> None:
        if self.settings.normalize_decoder:
            self.sae.normalize_decoder()
        threshold = thresholds_of(self.sae)
        if threshold is not None:
            threshold.clamp_(min=0)

    # --- to the end

    def run(self, out: FileName | None = None, *, progress: ProgressCallback | None = None) -> Sae:
        """Take the steps that are left, checkpoint on the way, and finish.

        Ctrl-C waits for the step under way and then raises `KeyboardInterrupt`, with a checkpoint
        where there is a folder; pressed twice it does not wait, and the latest checkpoint stays.

        Raises `NoRows` where the batches end, `NotFinite` where rows hold NaN, `Diverged` where
        the weights come to, and `NotWritable` where a checkpoint cannot be written; the one before
        stays. The SAE works on activations as they are then too.
        """
        folder = None if out is None else Path(out)
        lane = Lane(trainer=self, folder=folder, progress=progress)
        run_lanes([lane], self.batches, at=self.step)
        return self.sae

    def finish(self) -> None:
        """Have the SAE work on activations as they are; further steps scale them again.

        And calibrate it on the latest rows: see `Sae.calibrate`.
        """
        if self._scales:
            self.sae.rescale_parts([1 / scale for scale in self._scales])
            self._scales = []
        if self._latest:
            self.sae.calibrate(self._calibration_rows())
            self._latest = []
        self.sae.about = {
            **self.batches.about,
            "steps": self.step,
            "training": attrs.asdict(self.settings),
        }

    # --- checkpoints

    def _identity(self) -> dict[str, Any]:
        sae = self.sae
        return {
            "architecture": sae.architecture,
            "n_latents": sae.n_latents,
            "n_inputs": sae.n_inputs,
            "center": sae.center,
            "dtype": str(sae.dtype),
            **sae.settings(),
            **self.batches.about,
            **attrs.asdict(
                self.settings,
                filter=lambda field, _: field.name not in ("log_every", "checkpoint_every"),
            ),
        }

    def save_checkpoint(self, folder: FileName) -> Path:
        """Write all that the steps to come depend on into one file, in place at once.

        Raises `NotWritable` (an `OSError`), as on a full disk, and `Diverged` where a weight is no
        number; the checkpoint before stays.
        """
        self.check_weights()
        path = Path(folder) / CHECKPOINT
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        tensors["idle"] = self._idle
        if self._latest:
            tensors["latest"] = self._calibration_rows()
        for name, parameter in self.sae.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
        facts = {
            "identity": self._identity(),
            "step": self.step,
            "scale": self._scales[0] if self._scales else 0.0,
            "scales": self._scales[1:],
            "batches": self.batches.state_dict(),
            "history": self.history,
        }
        with in_place(path) as part:
            save_file(
                {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                part,
                metadata={"tenterhook_sae": json.dumps(facts)},
            )
        return path

    def load_checkpoint(self, folder: FileName) -> None:
        """Go on where a checkpoint stands.

        Raises `OtherCheckpoint` (a `ValueError`) where it is of another SAE, of other batches or
        settings, naming the first difference, and `UnreadableSae` where it is damaged; nothing
        is changed then.
        """
        file, facts = self._of_this_training(Path(folder))
        tensors = file.load(file.stored)
        try:
            self.batches.load_state_dict(facts.batches)
        except TenterhookError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
            reason = f"it does not say where its batches stand ({error_line(error)})"
            raise UnreadableSae(file.where, reason) from error
        with torch.no_grad():
            for name, tensor in self.sae.state_dict().items():
                tensor.copy_(tensors[f"sae.{name}"])
        device = self.sae.device
        for name, parameter in self.sae.named_parameters():
            prefix = f"optimizer.{name}."
            state = {
                key.removeprefix(prefix): value
                for key, value in tensors.items()
                if key.startswith(prefix)
            }
            self._optimizer.state[parameter] = {
                key: value if key == "step" else value.to(device) for key, value in state.items()
            }
        self._idle = tensors["idle"].to(device)
        # Checkpoints of earlier versions have none.
        self._latest = [tensors["latest"].to(device)] if "latest" in tensors else []
        self.step = facts.step
        self._scales = [facts.scale, *facts.scales] if facts.scale else []
        self.history = facts.history

    def check_checkpoint(self, folder: FileName) -> None:
        """Raise what `load_checkpoint` would, but for where batches stand; change nothing."""
        self._of_this_training(Path(folder))

    def _of_this_training(self, folder: Path) -> "tuple[WeightFile, _Facts]":
        file, facts = _opened(folder / CHECKPOINT)
        mine = self._identity()
        for key, value in facts.identity.items():
            if key not in mine or mine[key] != value:
                raise OtherCheckpoint(str(folder), key, value, mine.get(key))
        self._check_stored(file)
        return file, facts

    def _check_stored(self, file: WeightFile) -> None:
        """Raise `UnreadableSae` unless a checkpoint's tensors are those of this training."""
        sae = self.sae
        expected = {f"sae.{n}": (t.dtype, t.shape) for n, t in sae.state_dict().items()}
        expected["idle"] = torch.int64, self._idle.shape
        for name, parameter in sae.named_parameters():
            if any(each.startswith(f"optimizer.{name}.") for each in file.stored):
                expected[f"optimizer.{name}.step"] = torch.float32, torch.Size([])
                for moment in ("exp_avg", "exp_avg_sq"):
                    key = f"optimizer.{name}.{moment}"
                    expected[key] = parameter.dtype, parameter.shape
        if "latest" in file.stored:
            rows = min((file.stored["latest"].shape or (0,))[0], sae.calibration_rows)
            expected["latest"] = sae.dtype, torch.Size([rows, sae.n_inputs])
        for name in sorted(expected.keys() | file.stored.keys()):
            found = file.stored.get(name)
            if found is None or (found.dtype, torch.Size(found.shape)) != expected.get(name):
                what = f"{printable(name)} is not of the shape and dtype that it has to be"
                raise UnreadableSae(file.where, f"it is no whole checkpoint: {what}")


@attrs.frozen
class _Facts:
    """What a checkpoint says beside its tensors."""

    identity: dict[str, Any]
    step: int
    scale: float = attrs.field(validator=attrs.validators.ge(0))
    batches: dict[str, Any]
    history: list[dict[str, Any]]
    scales: list[float] = attrs.field(
        factory=list, validator=attrs.validators.deep_iterable(attrs.validators.gt(0))
    )
    """Of the parts of a row but the first."""


def _check_widths(sae: Sae, batches: Batches) -> None:
    """Raise `WrongWidth` where batches do not have the columns that an SAE trains on."""
    layer = batches.about.get("layer")
    found: tuple[int, ...] = getattr(batches, "widths", (batches.width,))
    if len(sae.parts) == 1:
        if batches.width != sae.n_inputs:
            raise WrongWidth(sae.n_inputs, batches.width, layer)
        return
    layers = batches.about.get("layers", [layer])
    if batches.width != sum(sae.parts) or (len(found) > 1 and found != sae.parts):
        raise WrongParts(type(sae).__name__, sae.parts, found, layers)


def _opened(path: Path) -> tuple[WeightFile, _Facts]:
    """Return a checkpoint, its tensors not read yet, and what it says; or `UnreadableSae`."""
    where = str(path)
    try:
        file = WeightFile.open(path, where)
        said = parse_object(file.facts.get("tenterhook_sae", "null"), "its state", where)
        return file, structured(_Facts, said, forbid_extra=False)
    except UnreadableSae as error:
        raise UnreadableSae(where, f"it is no whole checkpoint: {error.reason}") from error
    except ValueError as error:
        reason = f"it is no whole checkpoint: {printable(str(error))}"
        raise UnreadableSae(where, reason) from error


def train_sae(
    sae: Sae,
    batches: Batches,
    settings: TrainingSettings | None = None,
    *,
    out: FileName | None = None,
    progress: ProgressCallback | None = None,
) -> Sae:
    """Train an SAE, in place, and return it.

    With a folder `out`, checkpoints are written there, and at the end the SAE itself with the
    measures of its training; the same call again, after it was stopped or killed, goes on from
    the latest checkpoint and comes to the same numbers, on the CPU to the bit.

    Raises, with nothing changed: `WrongWidth`; `BadSetting` for an SAE in float16, in which AdamW
    comes to NaN; `OtherCheckpoint` where the folder holds a
    checkpoint of another training, `SaeExists` where it holds an SAE without one. Raises
    `NotFinite` where rows hold NaN, `Diverged` where weights come to, as with too high a learning
    rate, and `NotWritable` where the disk is full; the steps before stand, as they do after Ctrl-C,
    and so does the latest checkpoint.
    """
    trainer = Trainer(sae, batches, settings)
    if out is None:
        return trainer.run(progress=progress)
    folder = Path(out)
    check_folder(trainer, folder)
    begin(trainer, folder)
    lane = Lane(
        trainer=trainer, folder=folder, progress=progress, ended=lambda: write(trainer, folder)
    )
    run_lanes([lane], batches, at=trainer.step)
    return sae


def check_folder(trainer: Trainer, folder: Path) -> None:
    """Raise where a folder holds another training, or an SAE without one; change nothing.

    And where it can be no folder, which else would be found out as the first checkpoint is written.
    """
    for place in (folder, *folder.parents):
        if place.exists() and not place.is_dir():
            reason = "it cannot be written in, for it is no folder; give another one to train in"
            raise NotWritable(str(place), reason)
    if folder.joinpath(CHECKPOINT).exists():
        trainer.check_checkpoint(folder)
    elif folder.joinpath(CONFIG).exists():
        raise SaeExists(str(folder), "holds an SAE already; give another folder to train in")


def begin(trainer: Trainer, folder: Path) -> None:
    """Go on from the checkpoint in a folder, if there is one."""
    if folder.joinpath(CHECKPOINT).exists():
        trainer.load_checkpoint(folder)


def write(trainer: Trainer, folder: Path) -> None:
    """Write the SAE of a training that is done, and its measures."""
    about = {"about": trainer.sae.about, "history": trainer.history}
    write_json(folder / HISTORY, about)
    save_sae(trainer.sae, folder, overwrite=True)
