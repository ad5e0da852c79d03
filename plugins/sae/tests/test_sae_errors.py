"""Errors carry their facts, through copies and pickles too."""

import copy
import pickle

import pytest

from tenterhook.errors import TenterhookError
from tenterhook_sae import errors

ERRORS = [
    (errors.WrongWidth(16, 8, "mlp"), "^This SAE takes 16 inputs, and layer 'mlp' has 8 features"),
    (errors.WrongWidth(16, 8), "and what it was given has 8 features"),
    (errors.WrongWidth(16, 8, latents=True), "^This SAE has 16 latents, and it was given 8"),
    (
        errors.NoSuchLatent("dog", 4, ["dogs"]),
        "the latents are 0 to 3. Closest name: 'dogs",
    ),
    (
        errors.WrongWidth(16, 8, "mlp", outputs=True),
        "^This transcoder gives 16 outputs, and layer 'mlp' returns 8",
    ),
    (
        errors.WrongParts("Transcoder", [4, 8], [4, 9], ["mlp:input", "mlp"]),
        "^This Transcoder is made for layers of 4 and 8 features, and the batches .* 4 and 9",
    ),
    (errors.NotRead(["a"], "b"), "^'a' did not run before layer 'b' in this forward"),
    (errors.BadSetting("k", 0, "positive"), "^k=0 must be positive"),
    (errors.NoTexts(), "^Texts are not tracked"),
    (errors.UnknownArchitecture("here", "vae", ["topk"]), "architecture 'vae'; .* read are topk"),
    (errors.UnreadableSae("here", "It is empty."), "^here cannot be read as an SAE: It is empty."),
    (errors.SaeExists("here", "holds an SAE"), "^here holds an SAE. Nothing was overwritten."),
    (errors.NotFinite(1, 9, "Layer 3"), "^Layer 3: 1 of 9 rows hold NaN"),
    (errors.NoRows("The run"), "^The run holds no rows. Capture some texts first."),
    (errors.Diverged("TopKSae", 7, float("inf"), 1e3), "a TopKSae diverged at step 7: .* 1000"),
    (errors.OtherCheckpoint("here", "k", 3, 4), "with k=3, and this training has k=4"),
]


@pytest.mark.parametrize(
    ("error", "message"), ERRORS, ids=[type(error).__name__ for error, _ in ERRORS]
)
def test_error(error: TenterhookError, message: str) -> None:
    """An error says its facts, and so do its copy and what a pickle gives back, with its notes."""
    error.add_note("in a process of its own")
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        with pytest.raises(type(error), match=message):
            raise again
        assert str(again) == str(error)
        assert vars(again) == vars(error)
        assert again != error
    assert error in {error}


def test_trainings_that_failed() -> None:
    """What ended each goes with the error, through a pickle too."""
    error = errors.TrainingsFailed({"a": LookupError("gone")}, ["b", "c"])
    for again in (error, copy.copy(error), pickle.loads(pickle.dumps(error))):
        with pytest.raises(
            RuntimeError, match=r"^Of 3 trainings 1 failed; done are b, c\. a: .*gone"
        ):
            raise again
        assert isinstance(again.errors["a"], LookupError)
    with pytest.raises(errors.TrainingsFailed, match="none is done"):
        raise errors.TrainingsFailed({"a": LookupError("gone")}, [])
