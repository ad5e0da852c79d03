from tenterhook.testing.hooks import DetectorContract
from tenterhook_model_io import ModelInputDetector, ModelOutputDetector


class TestModelInputDetector(DetectorContract):
    """It does what every detector does."""

    layer = "input"

    def make(self) -> ModelInputDetector:
        """Return a detector that keeps all it can."""
        return ModelInputDetector(save_attention_mask=True, special_token_ids=[3])


class TestModelOutputDetector(DetectorContract):
    """It does what every detector does."""

    layer = "output"

    def make(self) -> ModelOutputDetector:
        """Return a detector that keeps all it can."""
        return ModelOutputDetector(save_output_hidden_state=True)
