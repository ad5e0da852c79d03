"""Make the model that copies, `tiny:induction`: two blocks of attention and no MLPs.

    python plugins/tiny/training/train_induction.py

A text is a token to begin with, a run of random letters, and the same run again, over and over.
What comes next can only be known by finding where the current letter stood before and what came
after it there, which takes two heads, one after the other: an induction circuit (Olsson et al.
2022, "In-context Learning and Induction Heads", arXiv:2209.11895). Runs are of many lengths, so
that no head can count places instead.

Takes about half a minute on one CPU core. It is seeded and runs on one thread; on another machine
or with another version of torch the last digits may differ.
"""

import argparse
import logging
import string
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

log = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parents[1] / "src" / "tenterhook_tiny" / "induction"
BEGIN, PAD = "<|begin|>", "<|pad|>"
LETTERS = string.ascii_letters[:46]
VOCABULARY = [BEGIN, PAD, *LETTERS]
LENGTH = 64
RUNS = (6, 28)
"""The shortest and the longest run."""


def texts(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return token ids `(count, LENGTH)`, int64, and the length of each text's run, `(count,)`."""
    lengths = torch.randint(RUNS[0], RUNS[1] + 1, (count,), generator=generator)
    ids = torch.zeros(count, LENGTH, dtype=torch.int64)
    for row, length in enumerate(lengths.tolist()):
        run = torch.randint(2, len(VOCABULARY), (length,), generator=generator)
        ids[row, 1:] = run.repeat(LENGTH // length + 1)[: LENGTH - 1]
    return ids, lengths


def new_model() -> LlamaForCausalLM:
    """Return the model untrained; its MLPs add nothing, and stay so."""
    config = LlamaConfig(
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        hidden_size=64,
        intermediate_size=1,
        max_position_embeddings=LENGTH,
        vocab_size=len(VOCABULARY),
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=None,
        pad_token_id=1,
    )
    model = LlamaForCausalLM(config)
    for layer in model.model.layers:
        for parameter in layer.mlp.parameters():
            torch.nn.init.zeros_(parameter).requires_grad_(False)
    return model


def loss_of_copies(model: LlamaForCausalLM, ids: Tensor, lengths: Tensor) -> Tensor:
    """Return the mean loss, nats a token, of what the text has shown before."""
    logits = model(ids).logits[:, :-1]
    losses = functional.cross_entropy(
        logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
    ).view(len(ids), -1)
    shown = torch.arange(LENGTH - 1) > lengths[:, None]
    return losses[shown].mean()


def train(steps: int, seed: int = 0) -> LlamaForCausalLM:
    """Return a model trained for so many steps of 64 texts."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = new_model()
    parameters = [each for each in model.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for step in range(steps):
        loss = loss_of_copies(model, *texts(64, generator))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            log.info("step %d: %.3f nats a copied token", step, loss.item())
    return model.eval()


def new_tokenizer() -> PreTrainedTokenizerFast:
    """Return the tokenizer: a token is a letter, and each text begins with `BEGIN`."""
    made = Tokenizer(WordLevel({token: id for id, token in enumerate(VOCABULARY)}, unk_token=PAD))
    made.pre_tokenizer = Split(Regex("."), "isolated")
    made.post_processor = TemplateProcessing(single=f"{BEGIN} $A", special_tokens=[(BEGIN, 0)])
    made.decoder = Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=BEGIN,
        pad_token=PAD,
        unk_token=PAD,
        model_max_length=LENGTH,
        clean_up_tokenization_spaces=False,
    )


def main() -> None:
    """Train, and write model and tokenizer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the model goes")
    parser.add_argument("--steps", type=int, default=500)
    asked = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    train(asked.steps).save_pretrained(asked.folder)
    new_tokenizer().save_pretrained(asked.folder)


if __name__ == "__main__":
    main()
