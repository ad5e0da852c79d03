"""The one version that core and every first-party plugin are released under."""

__version__ = "0.1.0"
