"""What the operator's settings allow and default for every training."""

from dataclasses import dataclass

from resnext_operator.api.objects import Manifest


@dataclass(frozen=True)
class OperatorPolicy:
    """What holds for every training here, by the operator's settings."""

    image: str
    """The trainer's, for trainings that name none."""
    operator_namespace: str = "default"
    metrics_allowed_from: tuple[Manifest, ...] = ()
    """Who else may read metrics, as a NetworkPolicy says it."""
    host_paths: tuple[str, ...] = ()
    """Folders of nodes that may be mounted, with all that is in them."""
    host_network: bool = False
    """Whether the nodes' own network may be used."""
