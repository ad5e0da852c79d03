"""What every test of the repository starts from."""

import os

import pytest

# Before torch is imported, here and in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")  # models here are tiny; threads only wait
os.environ["HF_HUB_OFFLINE"] = "1"  # no test needs the network
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork

try:
    from hypothesis import settings
except ModuleNotFoundError:  # the environment of built wheels has none
    pass
else:
    settings.register_profile("tenterhook", deadline=None)  # slow machines are no bug of ours
    settings.load_profile("tenterhook")


pytest_plugins = ["tenterhook.testing.fixtures"]


@pytest.fixture(autouse=True)
def no_plugin_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the variables of whoever runs the tests from choosing the plugins."""
    for name in ("TENTERHOOK_PLUGINS", "TENTERHOOK_BLOCK_PLUGINS"):
        monkeypatch.delenv(name, raising=False)
