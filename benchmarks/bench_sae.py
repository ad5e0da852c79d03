"""What does a sparse autoencoder cost as a hook, against the products it consists of?

An embedding stands for the model; 1,024 tokens a call (8 rows of 128), fp32, one thread. Bare is
what reconstructing has to do: the encoder's product, what the kind keeps (top-k and scatter, or a
threshold), the decoder's product. Weights are random, and thresholds such that k of a token's
latents are active. "As a hook" is the SAE attached to the embedding: reconstructing, or, as it is
by default, observing, which needs no decoder. Tracking keeps the 10 best texts of each latent, in
texts that are new in every call, after 50 calls; its baseline is the same without. Beside SAELens,
where it is installed (`nox -s saelens`), encoding and decoding without any hook. `-- KIND` times
one kind.
"""

import sys
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _rounds import measure, print_machine, print_table
from torch import Tensor, nn

import tenterhook
from tenterhook_sae import BatchTopKSae, JumpReLUSae, L1Sae, Sae, TopKSae

ROWS, SEQ = 8, 128
TOKENS = 50_000
"""So many that the best token of a latent is rare, and new texts go on being among the best."""
WARM_UP = 50
"""Calls before tracking is timed: a latent that has few texts yet takes whatever comes."""
KINDS = ("topk", "batchtopk", "jumprelu", "l1")


def made(kind: str, n_inputs: int, n_latents: int, k: int, x: Tensor) -> Sae:
    """Return an SAE with some k active latents for each row of `x`."""
    if kind == "topk":
        return TopKSae(n_latents, n_inputs, k)
    plain = {"batchtopk": BatchTopKSae(n_latents, n_inputs, k), "l1": L1Sae(n_latents, n_inputs)}
    sae = plain.get(kind, JumpReLUSae(n_latents, n_inputs))
    with torch.no_grad():
        least = sae.pre_activations(x).topk(k).values[:, -1].mean()
        if isinstance(sae, L1Sae):
            sae.b_enc.sub_(least)
        else:
            sae.threshold.fill_(least)  # type: ignore[operator]
    return sae


def bare_activation(sae: Sae) -> Callable[[Tensor], Tensor]:
    """Return what stands between the two products, written out."""
    if isinstance(sae, TopKSae):

        def top(pre: Tensor) -> Tensor:
            values, indices = pre.topk(sae.k, sorted=False)
            return torch.zeros_like(pre).scatter_(-1, indices, values.relu())

        return top
    if isinstance(sae, L1Sae):
        return torch.relu
    threshold: Any = sae.threshold
    if isinstance(sae, BatchTopKSae):
        threshold = float(threshold)
        return lambda pre: nn.functional.threshold(pre, threshold, 0)
    return lambda pre: torch.where(pre > threshold, pre.relu(), 0)


def variants(kind: str, n_inputs: int, n_latents: int, k: int) -> dict[str, Any]:
    torch.manual_seed(0)
    weights = torch.randn(TOKENS, n_inputs)
    sae = made(kind, n_inputs, n_latents, k, weights[:1000])
    activation = bare_activation(sae)

    def text() -> Tensor:
        return torch.randint(TOKENS, (ROWS, SEQ))

    def attached(mode: Any, tracked: bool) -> Any:
        embedding = nn.Embedding.from_pretrained(weights)  # type: ignore[no-untyped-call]
        own = made(kind, n_inputs, n_latents, k, weights[:1000])
        own.load_state_dict(sae.state_dict())
        own.mode = mode
        model = tenterhook.attach(embedding)
        model.layers.register_hook("output", own)
        if tracked:
            own.concepts.enable_text_tracking(top_k=10)

        @torch.no_grad()
        def run() -> Tensor:
            out: Tensor = model(text())
            return out

        for _ in range(WARM_UP if tracked else 0):
            run()
        return run

    plain = nn.Embedding.from_pretrained(weights)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def bare() -> Tensor:
        x = plain(text()).reshape(-1, n_inputs)
        pre = torch.addmm(sae.b_enc, x - sae.b_dec, sae.W_enc)
        return torch.addmm(sae.b_dec, activation(pre), sae.W_dec)

    found = {
        "bare products and what is kept": bare,
        "as a hook, reconstructing": attached("reconstruct", False),
        "as a hook, observing": attached("edit", False),
        "as a hook, reconstructing, tracking texts": attached("reconstruct", True),
        "as a hook, observing, tracking texts": attached("edit", True),
    }
    theirs = of_saelens(sae)
    if theirs is not None:

        @torch.no_grad()
        def run_theirs() -> Tensor:
            x = plain(text())
            out: Tensor = theirs.decode(theirs.encode(x))
            return out

        found["SAELens, no hook"] = run_theirs
    return found


def of_saelens(sae: Sae) -> Any:
    """The same SAE in SAELens, BatchTopK as JumpReLU; `None` where that is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import sae_lens  # type: ignore[import-not-found]
        except ImportError:
            return None
    sizes = {"d_in": sae.n_inputs, "d_sae": sae.n_latents}
    state = dict(sae.state_dict())
    if isinstance(sae, TopKSae):
        config = sae_lens.TopKSAEConfig(**sizes, k=sae.k, rescale_acts_by_decoder_norm=False)
        theirs = sae_lens.TopKSAE(config)
    elif isinstance(sae, L1Sae):
        theirs = sae_lens.StandardSAE(sae_lens.StandardSAEConfig(**sizes))
    else:
        theirs = sae_lens.JumpReLUSAE(sae_lens.JumpReLUSAEConfig(**sizes))
        state["threshold"] = torch.ones(sae.n_latents) * state["threshold"]
    theirs.load_state_dict(state)
    return theirs


BASES = {
    "bare products and what is kept": "bare products and what is kept",
    "as a hook, reconstructing": "bare products and what is kept",
    "as a hook, observing": "bare products and what is kept",
    "as a hook, reconstructing, tracking texts": "as a hook, reconstructing",
    "as a hook, observing, tracking texts": "as a hook, observing",
    "SAELens, no hook": "bare products and what is kept",
}


def main(rounds: int, calls: int, sizes: list[tuple[int, int, int]], kinds: list[str]) -> None:
    print_machine()
    for kind in kinds:
        for n_inputs, n_latents, k in sizes:
            times = measure(variants(kind, n_inputs, n_latents, k), rounds=rounds, calls=calls)
            title = f"{kind}: {n_inputs} inputs, {n_latents} latents, {k} active, "
            rows = {name: base for name, base in BASES.items() if name in times}
            title += f"{ROWS * SEQ} tokens a call"
            print_table(title, times, rows, unit="ms a call", scale=1e3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    asked = [kind for kind in KINDS if kind in sys.argv] or list(KINDS)
    if "--quick" in sys.argv:
        main(rounds=1, calls=1, sizes=[(64, 256, 8)], kinds=asked)
    else:
        main(rounds=15, calls=4, sizes=[(128, 1024, 32), (768, 6144, 32)], kinds=asked)
