"""Training an SAE on batches of activations, with checkpoints that resume to the same numbers."""

import json
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tenterhook_sae.batches import Batches
from tenterhook_sae.errors import (
    BadSetting,
    NoRows,
    NotFinite,
    OtherCheckpoint,
    SaeExists,
    UnreadableSae,
    WrongWidth,
)
from tenterhook_sae.evaluation import explained, numbers
from tenterhook_sae.files import CONFIG, FileName, in_place, save_sae, write_json
from tenterhook_sae.sae import Sae
from tenterhook_sae.settings import TrainingSettings

CHECKPOINT = "checkpoint.safetensors"
HISTORY = "training.json"


@attrs.frozen(kw_only=True)
class TrainingProgress:
    """Where a training stands; the measures are those of the latest batch."""

    step: int
    steps: int
    loss: float
    """What is minimised; see `TrainingSettings`."""
    mean_squared_error: float
    """Per feature, in the activations' own units."""
    explained_variance: float
    """1 minus the squared error over the squared distance of rows from the batch's mean; NaN where
    all its rows are the same."""
    l0: float
    """Active latents per row."""
    dead_share: float
    """The share of latents that were not active for more than `dead_after` rows."""
    learning_rate: float
    rows_per_second: float
    seconds_left: float


ProgressCallback = Callable[[TrainingProgress], None]


class Trainer:
    """Trains one SAE, step by step; `train_sae` runs it to its end."""

    def __init__(
        self, sae: Sae, batches: Batches, settings: TrainingSettings | None = None
    ) -> None:
        """Raises `WrongWidth` where batches and SAE do not fit, naming both, and `BadSetting` for
        an SAE in float16 (each a `ValueError`).
        """
        self.sae = sae
        self.batches = batches
        self.settings = TrainingSettings() if settings is None else settings
        self.step = 0
        self.history: list[dict[str, float | None]] = []
        """The progress that was reported, in plain JSON values; `None` for what is no number."""
        if batches.width != sae.n_inputs:
            raise WrongWidth(sae.n_inputs, batches.width, batches.about.get("layer"))
        if sae.dtype is torch.float16:
            # AdamW's epsilon is 0 in it, and weights would be NaN.
            valid = "a dtype to train in: make the SAE in float32, with autocast=True for speed"
            raise BadSetting("dtype", sae.dtype, valid)
        self._idle = torch.zeros(sae.n_latents, dtype=torch.int64, device=sae.device)
        """Rows since each latent was active."""
        self._scale = 0.0
        """What activations are multiplied by; 0 before the first batch."""
        self._optimizer = torch.optim.AdamW(
            sae.parameters(),
            lr=self.settings.learning_rate,
            betas=(self.settings.beta1, self.settings.beta2),
            weight_decay=self.settings.weight_decay,
        )

    # --- one step

    def train_batch(self, batch: Tensor, *, report: bool = False) -> dict[str, float]:
        """Take one step on rows `(rows, n_inputs)`; with `report`, return what it measured.

        While it is under way the SAE works on scaled activations; `finish` puts that right.
        Raises, before anything is changed, `NotFinite` where rows hold NaN, and `NoRows` for a
        batch of none (each a `ValueError`).
        """
        self._check(batch)
        sae, settings = self.sae, self.settings
        if not self._scale:
            self._begin(batch)
        x = batch.to(sae.device, sae.dtype) * self._scale
        rate = self._schedule()
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.zero_grad(set_to_none=True)
        kind = sae.device.type
        autocast = kind == "cuda" if settings.autocast is None else settings.autocast
        with torch.autocast(kind, torch.bfloat16, enabled=autocast):
            pre = sae.pre_activations(x)
            latents = sae.training_latents(pre)
            reconstruction = sae.decode(latents)
        error = x - reconstruction.to(x.dtype)
        loss = error.square().mean()
        if settings.sparsity:
            weight = settings.sparsity * self._warmed(settings.sparsity_warm_up)
            penalty = sae.sparsity_loss(latents.to(x.dtype), pre.to(x.dtype))
            loss = loss + weight * penalty / sae.n_inputs
        active = (latents.detach() != 0).reshape(-1, sae.n_latents)
        self._idle = torch.where(active.any(0), 0, self._idle + len(active))
        dead = self._idle > settings.dead_after
        if settings.aux:
            loss = loss + settings.aux * self._aux_loss(x, error.detach(), dead)
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
            self._resample(error.detach(), dead)
        if not report:
            return {}
        spread = float((x - x.mean(0)).square().sum())
        squared = float(error.detach().square().sum())
        return {
            "loss": float(loss.detach()),
            "mean_squared_error": squared / x.numel() / self._scale**2,
            "explained_variance": explained(squared, spread, float(x.square().sum())),
            "l0": float(active.sum() / len(active)),
            "dead_share": float(dead.float().mean()),
            "learning_rate": rate,
        }

    def _check(self, batch: Tensor) -> None:
        if not len(batch):
            raise NoRows(self._batch_name(), "Batches hold a row at least.")
        bad = ~torch.isfinite(batch).all(1)
        if bad.any():
            raise NotFinite(int(bad.sum()), len(batch), self._batch_name())

    def _batch_name(self) -> str:
        about = self.batches.about
        known = [key for key in ("layer", "run", "model") if about.get(key) is not None]
        return f"Batch {self.step + 1}" + "".join(f" of {key} {about[key]!r}" for key in known)

    @torch.no_grad()
    def _begin(self, batch: Tensor) -> None:
        """Scale activations to a mean square of 1 per feature, and start from their mean."""
        sae = self.sae
        x = batch.to(sae.device, torch.float32)
        size = math.sqrt(float(x.square().mean()))
        self._scale = 1 / size if size else 1.0  # zeros do not say how large others will be
        untrained = not sae.b_dec.any()
        sae.rescale(self._scale)
        if untrained:
            sae.b_dec.copy_(x.mean(0) * self._scale)

    def _warmed(self, share: float) -> float:
        steps = share * self.settings.steps
        return 1.0 if steps < 1 else min(1.0, (self.step + 1) / steps)

    def _schedule(self) -> float:
        settings = self.settings
        falling = settings.decay * settings.steps
        left = settings.steps - self.step
        down = 1.0 if falling < 1 else min(1.0, left / falling)
        return settings.learning_rate * self._warmed(settings.warm_up) * down

    def _aux_loss(self, x: Tensor, error: Tensor, dead: Tensor) -> Tensor:
        """Return how badly dead latents reconstruct the error, in units of the error.

        A latent that is below 0 adds nothing to what they reconstruct, and has the gradient that
        it would have at 0: without, one that is below 0 everywhere would never come back.
        """
        chosen = dead.nonzero().reshape(-1)
        if not len(chosen):
            return error.new_zeros(())
        sae = self.sae
        k = min(len(chosen), self.settings.aux_k or max(1, sae.n_inputs // 2))
        # The latents that live share b_dec: it is not for the dead to move.
        centered = x - sae.b_dec.detach() if sae.center else x
        pre = torch.addmm(sae.b_enc[chosen], centered, sae.W_enc[:, chosen])
        values, indices = pre.topk(k, sorted=False)
        values = values + (values.relu() - values).detach()
        latents = torch.zeros_like(pre).scatter(-1, indices, values)
        missed = error - (latents @ sae.W_dec[chosen]).to(error.dtype)
        return missed.square().mean() / error.square().mean().clamp_min(1e-30)

    def _keep_length_out_of_gradient(self) -> None:
        decoder = self.sae.W_dec
        if decoder.grad is not None:
            along = (decoder.grad * decoder.detach()).sum(1, keepdim=True)
            decoder.grad -= along * decoder.detach()

    @torch.no_grad()
    def _tidy(self) -> None:
        if self.settings.normalize_decoder:
            self.sae.normalize_decoder()
        threshold = self._thresholds()
        if threshold is not None:
            threshold.clamp_(min=0)

    def _thresholds(self) -> Tensor | None:
        """Return the thresholds that are learned, `(n_latents,)`; `None` for kinds without."""
        return dict(self.sae.named_parameters()).get("threshold")

    @torch.no_grad()
    def _resample(self, error: Tensor, dead: Tensor) -> None:
        """Make dead latents anew, each along what is missed of a row, badly reconstructed ones
        rather; no more of them than there are rows of which something is missed.
        """
        chosen = dead.nonzero().reshape(-1)
        if not len(chosen):
            return
        sae = self.sae
        generator = torch.Generator().manual_seed(self.settings.seed * 1_000_003 + self.step)
        weight = error.square().sum(1).double().square().cpu()
        order = torch.randperm(len(chosen), generator=generator)[: int(weight.count_nonzero())]
        if not len(order):
            return
        chosen = chosen[order.to(chosen.device)]
        rows = weight.multinomial(len(chosen), generator=generator)
        direction = error[rows.to(error.device)]
        direction = direction / direction.norm(dim=1, keepdim=True)
        alive = sae.W_enc[:, ~dead]
        length = float(alive.norm(dim=0).mean()) if alive.shape[1] else 1.0
        sae.W_dec[chosen] = direction
        sae.W_enc[:, chosen] = (sae.resampled_length * length * direction).T
        sae.b_enc[chosen] = 0
        changed: list[tuple[Tensor, Any]] = [
            (sae.W_dec, chosen),
            (sae.W_enc, (slice(None), chosen)),
            (sae.b_enc, chosen),
        ]
        threshold = self._thresholds()
        if threshold is not None:  # as much lower as the encoder is shorter
            living = float(threshold[~dead].mean()) if alive.shape[1] else 0.0
            threshold[chosen] = sae.resampled_length * living
            changed.append((threshold, chosen))
        for parameter, index in changed:
            state = self._optimizer.state[parameter]
            for name in ("exp_avg", "exp_avg_sq"):
                if name in state:
                    state[name][index] = 0
        self._idle[chosen] = 0

    # --- to the end

    def run(self, out: FileName | None = None, *, progress: ProgressCallback | None = None) -> Sae:
        """Take the steps that are left, checkpoint on the way, and finish.

        Ctrl-C waits for the step under way and then raises, with a checkpoint where there is a
        folder; pressed twice it does not wait, and the latest checkpoint stays.
        """
        settings = self.settings
        began, first = time.perf_counter(), self.step
        rows = 0
        stream = iter(self.batches)
        between_steps = True
        try:
            with _asked_to_stop() as asked:
                while self.step < settings.steps:
                    if asked.is_set():
                        raise KeyboardInterrupt
                    between_steps = False
                    batch = next(stream, None)
                    if batch is None:
                        raise NoRows(self._batch_name(), "Batches have no end: begin them again.")
                    last = self.step + 1 == settings.steps
                    report = last or (self.step + 1) % settings.log_every == 0
                    found = self.train_batch(batch, report=report)
                    rows += len(batch)
                    if report:
                        self.history.append({"step": self.step, **numbers(found)})
                    between_steps = True
                    if report and progress is not None:
                        seconds = time.perf_counter() - began
                        each = seconds / (self.step - first)
                        progress(
                            TrainingProgress(
                                step=self.step,
                                steps=settings.steps,
                                rows_per_second=rows / seconds,
                                seconds_left=each * (settings.steps - self.step),
                                **found,
                            )
                        )
                    if out is not None and not last and self.step % settings.checkpoint_every == 0:
                        self.save_checkpoint(out)
        except KeyboardInterrupt as error:
            # In the middle of a step, weights and batches do not belong together.
            if out is not None and self.step > first and between_steps:
                self.save_checkpoint(out)
                error.add_note(f"Stopped after step {self.step}; the same call again goes on.")
            raise
        if out is not None:
            self.save_checkpoint(out)
        self.finish()
        return self.sae

    def finish(self) -> None:
        """Have the SAE work on activations as they are; further steps scale them again."""
        if self._scale:
            self.sae.rescale(1 / self._scale)
            self._scale = 0.0
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
        """Write all that the steps to come depend on into one file, in place at once."""
        path = Path(folder) / CHECKPOINT
        path.parent.mkdir(parents=True, exist_ok=True)
        tensors = {f"sae.{name}": tensor for name, tensor in self.sae.state_dict().items()}
        tensors["idle"] = self._idle
        for name, parameter in self.sae.named_parameters():
            for key, value in self._optimizer.state.get(parameter, {}).items():
                tensors[f"optimizer.{name}.{key}"] = torch.as_tensor(value)
        facts = {
            "identity": self._identity(),
            "step": self.step,
            "scale": self._scale,
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
        path = Path(folder) / CHECKPOINT
        try:
            with safe_open(path, framework="pt") as opened:
                facts = json.loads(opened.metadata()["tenterhook_sae"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise UnreadableSae(str(path), f"it is no whole checkpoint: {error}") from error
        mine = self._identity()
        for key, value in facts["identity"].items():
            if key not in mine or mine[key] != value:
                raise OtherCheckpoint(str(path.parent), key, value, mine.get(key))
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
        self.step, self._scale = facts["step"], facts["scale"]
        self.history = facts["history"]
        self.batches.load_state_dict(facts["batches"])


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
    `NotFinite` where rows hold NaN; the steps before them stand, as they do after Ctrl-C.
    """
    trainer = Trainer(sae, batches, settings)
    if out is None:
        return _run(trainer, None, progress)
    folder = Path(out)
    if folder.joinpath(CHECKPOINT).exists():
        trainer.load_checkpoint(folder)
    elif folder.joinpath(CONFIG).exists():
        raise SaeExists(str(folder), "holds an SAE already; give another folder to train in")
    _run(trainer, folder, progress)
    write_json(folder / HISTORY, {"about": sae.about, "history": trainer.history})
    save_sae(sae, folder, overwrite=True)
    return sae


def _run(trainer: Trainer, folder: Path | None, progress: ProgressCallback | None) -> Sae:
    """Run to the end; stopped before, have the SAE work on activations as they are all the same."""
    try:
        return trainer.run(folder, progress=progress)
    except BaseException:
        if trainer.step:
            trainer.finish()
        raise


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """A block in which Ctrl-C sets an event, and raises only when it is pressed again.

    Where somebody else listens to Ctrl-C, or in another thread than the main one, it is left.
    """
    asked = threading.Event()
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield asked
        return

    def note(*_: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    signal.signal(signal.SIGINT, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
