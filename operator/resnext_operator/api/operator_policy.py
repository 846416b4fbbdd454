"""Settings of the operator that apply to every training: defaults and permissions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from resnext_operator.api.objects import Manifest


@dataclass(frozen=True)
class OperatorPolicy:
    """Settings of the operator that apply to every training."""

    image: str
    """Default image of the trainer."""
    operator_namespace: str = "default"
    metrics_allowed_from: tuple[Manifest, ...] = ()
    """NetworkPolicy peers that may scrape metrics of the pods."""
    host_paths: tuple[str, ...] = ()
    """Directories of the nodes that may be mounted, including their subdirectories."""
    host_network: bool = False
    """Whether workers may use hostNetwork."""
    run_policy: Mapping[str, Any] = field(default_factory=dict)
    """Values of spec.runPolicy for the fields that a training does not set."""
