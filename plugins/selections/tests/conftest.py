"""These tests run as if no other plugin were installed, whatever is."""

import pytest


@pytest.fixture(autouse=True)
def alone(no_installed_plugins: None) -> None:
    """Give each test a default manager of its own, which loads nothing."""
