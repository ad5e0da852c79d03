"""What this distribution adds to tenterhook."""

from collections.abc import Sequence

from tenterhook.extensions import Extension
from tenterhook.hookspecs import hookimpl


@hookimpl
def tenterhook_spec_formats() -> Sequence[Extension]:
    """Declare the formats of this distribution, by the endings of files."""
    yaml = "tenterhook_specs.yaml_format:YAML"
    return [
        Extension("json", "tenterhook_specs.json_format:JSON", "Specs as JSON."),
        Extension("toml", "tenterhook_specs.toml_format:TOML", "Specs as TOML."),
        Extension("yaml", yaml, "Specs as YAML.", needs="tenterhook[yaml]"),
        Extension("yml", yaml, "Specs as YAML, by its other ending.", needs="tenterhook[yaml]"),
    ]
