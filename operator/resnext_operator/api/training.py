"""One ResNeXtTraining, parsed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resnext_operator.api.objects import TrainingKey
from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.api.spec import Spec
from resnext_operator.api.status import Status


@dataclass(frozen=True)
class Training:
    """One resource, parsed."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    spec: Spec
    site: OperatorPolicy
    status: Status
    """What of the stored status can be parsed; not to be changed."""
    stored: Mapping[str, Any] = field(default_factory=dict)
    """The status as it is stored, which may hold anything."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """spec.training as the user wrote it; `spec` holds it resolved."""
    invalid: str = ""
    """Why the spec cannot be used, although an earlier version accepted it: what could be read of it is in `spec`."""

    @property
    def key(self) -> TrainingKey:
        return self.namespace, self.name

    @property
    def image(self) -> str:
        """The trainer's."""
        return self.spec.image or self.site.image
