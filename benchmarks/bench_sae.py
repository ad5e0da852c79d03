"""What does a sparse autoencoder cost as a hook, against the products it consists of?

An embedding stands for the model; 1,024 tokens a call (8 rows of 128), fp32, one thread. Bare is
what reconstructing has to do: the encoder's product, top-k, scatter, the decoder's product.
"As a hook" is a TopKSae attached to the embedding: reconstructing, or, as it is by default,
observing, which needs no decoder. Tracking keeps the 10 best texts of each latent, with texts
that change from call to call; its baseline is the same without. Beside SAELens, where it is
installed, encoding and decoding without any hook.
"""

import sys
import warnings
from typing import Any

import torch
from _rounds import measure, print_machine, print_table
from torch import Tensor, nn

import tenterhook
from tenterhook_sae import TopKSae

ROWS, SEQ, TOKENS = 8, 128, 5000


def variants(n_inputs: int, n_latents: int, k: int) -> dict[str, Any]:
    torch.manual_seed(0)
    texts = torch.randint(TOKENS, (64, ROWS, SEQ))
    weights = torch.randn(TOKENS, n_inputs)
    sae = TopKSae(n_latents, n_inputs, k)
    state = sae.state_dict()
    call = iter(range(10**9))

    def attached(mode: Any, tracked: bool) -> Any:
        embedding = nn.Embedding.from_pretrained(weights)
        own = TopKSae(n_latents, n_inputs, k, mode=mode)
        own.load_state_dict(state)
        model = tenterhook.attach(embedding)
        model.layers.register_hook("output", own)
        if tracked:
            own.concepts.enable_text_tracking(top_k=10)

        @torch.no_grad()
        def run() -> Tensor:
            out: Tensor = model(texts[next(call) % len(texts)])
            return out

        return run

    plain = nn.Embedding.from_pretrained(weights)

    @torch.no_grad()
    def bare() -> Tensor:
        x = plain(texts[next(call) % len(texts)]).reshape(-1, n_inputs)
        pre = torch.addmm(sae.b_enc, x - sae.b_dec, sae.W_enc)
        values, indices = pre.topk(k, sorted=False)
        latents = torch.zeros_like(pre).scatter_(-1, indices, values.relu())
        return torch.addmm(sae.b_dec, latents, sae.W_dec)

    found = {
        "bare products, top-k and scatter": bare,
        "as a hook, reconstructing": attached("reconstruct", False),
        "as a hook, observing": attached("edit", False),
        "as a hook, reconstructing, tracking texts": attached("reconstruct", True),
        "as a hook, observing, tracking texts": attached("edit", True),
    }
    theirs = of_saelens(n_inputs, n_latents, k, state)
    if theirs is not None:

        @torch.no_grad()
        def run_theirs() -> Tensor:
            x = plain(texts[next(call) % len(texts)])
            out: Tensor = theirs.decode(theirs.encode(x))
            return out

        found["SAELens, no hook"] = run_theirs
    return found


def of_saelens(n_inputs: int, n_latents: int, k: int, state: dict[str, Tensor]) -> Any:
    """The same SAE in SAELens, `None` where that is not installed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import sae_lens
        except ImportError:
            return None
    config = sae_lens.TopKSAEConfig(
        d_in=n_inputs, d_sae=n_latents, k=k, rescale_acts_by_decoder_norm=False
    )
    theirs = sae_lens.TopKSAE(config)
    theirs.load_state_dict(state)
    return theirs


BASES = {
    "bare products, top-k and scatter": "bare products, top-k and scatter",
    "as a hook, reconstructing": "bare products, top-k and scatter",
    "as a hook, observing": "bare products, top-k and scatter",
    "as a hook, reconstructing, tracking texts": "as a hook, reconstructing",
    "as a hook, observing, tracking texts": "as a hook, observing",
    "SAELens, no hook": "bare products, top-k and scatter",
}


def main(rounds: int, calls: int, sizes: list[tuple[int, int, int]]) -> None:
    print_machine()
    for n_inputs, n_latents, k in sizes:
        times = measure(variants(n_inputs, n_latents, k), rounds=rounds, calls=calls)
        title = f"{n_inputs} inputs, {n_latents} latents, k={k}, {ROWS * SEQ} tokens a call"
        rows = {name: base for name, base in BASES.items() if name in times}
        print_table(title, times, rows, unit="ms a call", scale=1e3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if "--quick" in sys.argv:
        main(rounds=1, calls=1, sizes=[(64, 256, 8)])
    else:
        main(rounds=15, calls=4, sizes=[(128, 1024, 32), (768, 6144, 32)])
