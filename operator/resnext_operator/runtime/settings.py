"""Settings of the operator, from environment variables such as RESNEXT_TRAINER_IMAGE."""

import os
import socket
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError
from pydantic.alias_generators import to_camel

from resnext_operator.api.objects import Manifest
from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.api.spec import RunPolicy

PREFIX = "RESNEXT_"

_LISTS = ("namespaces", "host_paths")
"""Settings whose values are comma-separated lists."""

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
    *("run_policy", "identity", "port"),
)
"""Settings that the chart sets itself, or from a dedicated value."""


class InvalidSettings(ValueError):
    """The environment is invalid; the message names each variable and the problem."""


class Settings(BaseModel):
    """Settings of the operator. Each field is read from RESNEXT_ followed by its name in upper case."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    trainer_image: str = "resnext-trainer"
    """Default trainer image, used if `spec.image` is unset."""

    namespaces: tuple[str, ...] = ()
    """Comma-separated list of namespaces to watch. If empty, all namespaces are watched."""

    lease_name: str = "resnext-operator"
    """Name of the Lease used for leader election."""

    lease_namespace: str = "default"
    """Namespace of the Lease and of the operator's pods."""

    metrics_allowed_from: Json[tuple[Manifest, ...]] = ()
    """Peers that may scrape the metrics of trainings, as a JSON list of NetworkPolicy peers. If empty, only the
    operator can."""

    host_paths: tuple[Annotated[str, Field(pattern="^/")], ...] = ()
    """Comma-separated list of host directories that trainings may mount, including their subdirectories. If empty,
    hostPath volumes are rejected."""

    host_network: bool = False
    """Whether trainings may set `hostNetwork`."""

    run_policy: Json[RunPolicy] = RunPolicy()
    """Default values of `spec.runPolicy` as a JSON object. They apply to fields that a training does not set,
    including those of existing trainings."""

    identity: str = Field(default_factory=socket.gethostname)
    """Identity of this replica in leader election."""

    port: int = 9400
    """Port that serves /metrics, /healthz and /readyz."""

    max_concurrent_reconciles: Annotated[int, Field(ge=1, le=1000)] = 40
    """Maximum number of concurrent reconciliations."""

    # With 40 reconciliations over 32 connections, 100 trainings that start at once in a namespace need 12 instead
    # of 7 reconciliations each, because the pods of all of them start at the same time.
    max_concurrent_reconciles_per_namespace: Annotated[int, Field(ge=1, le=1000)] = 8
    """Maximum number of concurrent reconciliations of trainings in one namespace. It keeps slow requests in one
    namespace, for example because of an admission webhook, from delaying other namespaces."""

    min_reconcile_interval_seconds: Annotated[float, Field(ge=0, le=60)] = 0.25
    """Minimum interval between two reconciliations of a training."""

    # Each connection takes 256 KiB of memory.
    max_api_connections: Annotated[int, Field(ge=1, le=1000)] = 32
    """Maximum number of concurrent connections to the API server."""

    max_api_connections_per_namespace: Annotated[int, Field(ge=1, le=1000)] = 8
    """Maximum number of concurrent connections to the API server for requests to the objects of one namespace."""

    resync_seconds: Annotated[float, Field(gt=0, le=86_400)] = 180.0
    """Interval at which every training is reconciled even without an event."""

    relist_seconds: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    """Interval at which all objects are listed again, to find events that a broken watch missed."""

    progress_poll_interval_seconds: Annotated[float, Field(gt=0, le=3600)] = 3.0
    """Interval at which the progress of each running training is polled."""

    max_progress_polls_per_second: Annotated[float, Field(gt=0, le=10_000)] = 50.0
    """Maximum number of progress polls per second over all trainings. Each may cause a status update."""

    @property
    def site(self) -> OperatorPolicy:
        """The settings that apply to every training."""
        return OperatorPolicy(
            image=self.trainer_image,
            operator_namespace=self.lease_namespace,
            metrics_allowed_from=self.metrics_allowed_from,
            host_paths=self.host_paths,
            host_network=self.host_network,
            run_policy=self.run_policy.model_dump(mode="json", by_alias=True, exclude_unset=True),
        )

    @classmethod
    def chart_schema(cls) -> dict[str, Any]:
        """JSON schema of the chart value `settings`: the fields that no other value sets, in camelCase."""
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
        """Raise InvalidSettings if a RESNEXT_ variable is not a setting; it would otherwise be ignored silently."""
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
        """Read and validate the variables. Raises InvalidSettings with the names of the variables."""
        values: dict[str, object] = {}
        for name in cls.model_fields:
            if (value := environment.get(f"{PREFIX}{name.upper()}")) is not None:
                values[name] = [part for part in value.split(",") if part] if name in _LISTS else value
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            wrong = [
                ": ".join([f"{PREFIX}{str(each['loc'][0]).upper()}", *map(str, each["loc"][1:]), each["msg"]])
                for each in error.errors()
            ]
            raise InvalidSettings("; ".join(wrong)) from None
