"""What the operator is told by its environment: RESNEXT_TRAINER_IMAGE and so on."""

import os
import socket
from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError

from resnext_operator.api import Manifest, Site

_LISTS = ("namespaces", "host_paths")
"""Settings that are written with commas between."""


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

    metrics_from: Json[tuple[Manifest, ...]] = ()
    """From where metrics of trainings may be read, in JSON as in a NetworkPolicy's `from`; none: the operator alone."""

    host_paths: tuple[Annotated[str, Field(pattern="^/")], ...] = ()
    """Folders of nodes that trainings may mount, with all that is in them; none means no hostPath."""

    host_network: bool = False
    """Whether trainings may use their nodes' own network."""

    identity: str = Field(default_factory=socket.gethostname)
    """Name of this replica."""

    port: int = 9400
    """Serves /metrics, /healthz and /readyz."""

    reconcilers: Annotated[int, Field(ge=1)] = 40
    """Trainings looked at side by side."""

    pause_seconds: Annotated[float, Field(ge=0)] = 0.25
    """Pause between two looks at a training: what its pods tell meanwhile is answered at once."""

    # Each takes a quarter of a megabyte, the buffer that asyncio reads TLS into.
    connections: Annotated[int, Field(ge=1)] = 32
    """Most connections to the API server at the same time."""

    resync_seconds: Annotated[float, Field(gt=0)] = 180.0
    """Every training is looked at this often, whatever happened; what waits for a time, when it has come."""

    relist_seconds: Annotated[float, Field(gt=0)] = 300.0
    """Everything is listed anew this often, for what a broken watch has missed."""

    progress_seconds: Annotated[float, Field(gt=0)] = 3.0
    """Pause between two questions to worker 0 about its progress."""

    progress_per_second: Annotated[float, Field(gt=0)] = 50.0
    """Cap on such questions over all trainings; each may cost one write of a status."""

    @property
    def site(self) -> Site:
        """What every training here goes by."""
        return Site(
            image=self.trainer_image,
            operator_namespace=self.lease_namespace,
            metrics_from=self.metrics_from,
            host_paths=self.host_paths,
            host_network=self.host_network,
        )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Settings":
        """Raises InvalidSettings in the variables' own spelling."""
        told: dict[str, object] = {}
        for name in cls.model_fields:
            if (value := environment.get(f"RESNEXT_{name.upper()}")) is not None:
                told[name] = [part for part in value.split(",") if part] if name in _LISTS else value
        try:
            return cls.model_validate(told)
        except ValidationError as error:
            wrong = [f"RESNEXT_{str(each['loc'][0]).upper()}: {each['msg']}" for each in error.errors()]
            raise InvalidSettings("; ".join(wrong)) from None
