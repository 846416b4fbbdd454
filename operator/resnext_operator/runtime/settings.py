"""What the operator is told by its environment: RESNEXT_TRAINER_IMAGE and so on."""

import os
import socket
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError
from pydantic.alias_generators import to_camel

from resnext_operator.api.objects import Manifest
from resnext_operator.api.operator_policy import OperatorPolicy

PREFIX = "RESNEXT_"

_LISTS = ("namespaces", "host_paths")
"""Settings that are written with commas between."""

_OF_DEPLOYMENT = (
    *(
        "trainer_image",
        "namespaces",
        "lease_name",
        "lease_namespace",
        "metrics_allowed_from",
        "host_paths",
        "host_network",
    ),
    *("identity", "port"),
)
"""Settings that the chart sets by itself, or from a value of their own."""


class InvalidSettings(ValueError):
    """The environment is refused; the text names each variable and what is wrong with it."""


class Settings(BaseModel):
    """Each field is read from the environment variable RESNEXT_ and its name in capitals."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    trainer_image: str = "resnext-trainer"
    """Image of trainings that name none."""

    namespaces: tuple[str, ...] = ()
    """Namespaces to look after; none means all."""

    lease_name: str = "resnext-operator"
    """Name of the Lease that says which replica leads."""

    lease_namespace: str = "default"
    """Namespace of the Lease, and of the operator's own pods."""

    metrics_allowed_from: Json[tuple[Manifest, ...]] = ()
    """From where metrics of trainings may be read, in JSON as in a NetworkPolicy's `from`; none: the operator alone."""

    host_paths: tuple[Annotated[str, Field(pattern="^/")], ...] = ()
    """Folders of nodes that trainings may mount, with all that is in them; none means no hostPath."""

    host_network: bool = False
    """Whether trainings may use their nodes' own network."""

    identity: str = Field(default_factory=socket.gethostname)
    """Name of this replica."""

    port: int = 9400
    """Serves /metrics, /healthz and /readyz."""

    max_concurrent_reconciles: Annotated[int, Field(ge=1, le=1000)] = 40
    """Concurrent reconciliations."""

    min_reconcile_interval_seconds: Annotated[float, Field(ge=0, le=60)] = 0.25
    """Minimum interval between two reconciliations of a training."""

    # Each takes a quarter of a megabyte, the buffer that asyncio reads TLS into.
    max_api_connections: Annotated[int, Field(ge=1, le=1000)] = 32
    """Most connections to the API server at the same time."""

    resync_seconds: Annotated[float, Field(gt=0, le=86_400)] = 180.0
    """Every training is looked at this often, whatever happened; what waits for a time, when it has come."""

    relist_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """Interval of a complete relist, which finds what a broken watch has missed."""

    progress_poll_interval_seconds: Annotated[float, Field(gt=0, le=3600)] = 3.0
    """Interval of progress polls."""

    max_progress_polls_per_second: Annotated[float, Field(gt=0, le=10_000)] = 50.0
    """Maximum progress polls per second over all trainings; each may cost one write of a status."""

    @property
    def site(self) -> OperatorPolicy:
        """What every training here goes by."""
        return OperatorPolicy(
            image=self.trainer_image,
            operator_namespace=self.lease_namespace,
            metrics_allowed_from=self.metrics_allowed_from,
            host_paths=self.host_paths,
            host_network=self.host_network,
        )

    @classmethod
    def chart_schema(cls) -> dict[str, Any]:
        """JSON schema of the chart's value `settings`: the fields in camelCase that no other value sets."""
        kept = ("type", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
        fields = {
            to_camel(name): {
                "description": " ".join(field["description"].split()),
                **{key: field[key] for key in kept if key in field},
            }
            for name, field in cls.model_json_schema()["properties"].items()
            if name not in _OF_DEPLOYMENT
        }
        return {"type": "object", "additionalProperties": False, "properties": fields}

    @classmethod
    def check_names(cls, environment: Mapping[str, str] = os.environ) -> None:
        """Raises InvalidSettings for a variable RESNEXT_... that is no setting: it would be ignored silently."""
        known = [name.upper() for name in cls.model_fields]
        wrong = []
        for variable in sorted(environment):
            name = variable.removeprefix(PREFIX)
            if variable.startswith(PREFIX) and name not in known:
                close = get_close_matches(name.upper(), known, n=1)
                way_out = f"use {PREFIX}{close[0]}" if close else "remove it"
                wrong.append(f"{variable}: not a setting of the operator: {way_out}")
        if wrong:
            raise InvalidSettings("; ".join(wrong))

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Raises InvalidSettings in the variables' own spelling."""
        values: dict[str, object] = {}
        for name in cls.model_fields:
            if (value := environment.get(f"{PREFIX}{name.upper()}")) is not None:
                values[name] = [part for part in value.split(",") if part] if name in _LISTS else value
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            wrong = [f"{PREFIX}{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors()]
            raise InvalidSettings("; ".join(wrong)) from None
