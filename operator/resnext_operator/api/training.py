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
    """A parsed resource."""

    namespace: str
    name: str
    uid: str
    generation: int
    deleting: bool
    spec: Spec
    site: OperatorPolicy
    status: Status
    """The fields of the stored status that can be parsed. Must not be changed."""
    stored: Mapping[str, Any] = field(default_factory=dict)
    """The status as stored; it may contain anything."""
    written: Mapping[str, Any] = field(default_factory=dict)
    """spec.training as the user wrote it; `spec` contains it resolved."""
    invalid: str = ""
    """Why this version rejects a spec that an earlier version accepted. `spec` contains the fields that can be
    parsed."""

    @property
    def key(self) -> TrainingKey:
        return self.namespace, self.name

    @property
    def image(self) -> str:
        """Image of the trainer."""
        return self.spec.image or self.site.image
