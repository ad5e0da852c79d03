"""The formats of this distribution do what every format does."""

from tenterhook_specs.json_format import JSON
from tenterhook_specs.testing import SpecFormatContract
from tenterhook_specs.toml_format import TOML
from tenterhook_specs.yaml_format import YAML


class TestToml(SpecFormatContract):
    """Specs as TOML."""

    format = TOML
    no_text = "a = ["


class TestJson(SpecFormatContract):
    """Specs as JSON."""

    format = JSON
    no_text = "{"


class TestYaml(SpecFormatContract):
    """Specs as YAML."""

    format = YAML
    no_text = "a: ["
