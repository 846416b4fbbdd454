"""The operator's settings: environment variables and chart values."""

import json
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from hack.codegen.reference.fields import kind
from hack.codegen.reference.tables import table
from resnext_operator.runtime.settings import PREFIX, Settings

_OWN_VALUES = {
    "trainer_image": "`trainerImage`",
    "namespaces": "`namespaces`",
    "metrics_allowed_from": "`networkPolicy.metricsAllowedFrom`",
    "host_paths": "`allow.hostPaths`",
    "host_network": "`allow.hostNetwork`",
    "run_policy": "`runPolicy`",
}
"""Chart values outside `settings`."""


def page() -> str:
    """Every setting: variable, chart value, type, default and description."""
    schema = Settings.model_json_schema()["properties"]
    in_chart = Settings.chart_schema()["properties"]
    rows = [
        (
            f"`{PREFIX}{name.upper()}`",
            f"`settings.{to_camel(name)}`" if to_camel(name) in in_chart else _OWN_VALUES.get(name, ""),
            kind(field),
            _default(name),
            field["description"],
        )
        for name, field in schema.items()
    ]
    return (
        "# Operator settings\n\n"
        "The operator reads its settings from environment variables when it starts, and rejects unknown variables\n"
        f"that begin with `{PREFIX}`. The chart sets them from its values.\n\n"
        + "\n".join(table(("Variable", "Chart value", "Type", "Default", "Description"), rows))
    )


def _default(name: str) -> str:
    field = Settings.model_fields[name]
    if field.default_factory is not None:
        return "host name"
    default: Any = field.default
    return f"`{json.dumps(default)}`" if default not in ((), "") and not isinstance(default, BaseModel) else ""
