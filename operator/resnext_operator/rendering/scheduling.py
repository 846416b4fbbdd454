"""Tolerations, affinity and topology spread constraints of the pods."""

from collections.abc import Sequence
from typing import Any, Final, cast

from resnext_operator.api import scheduling
from resnext_operator.api.objects.pod import Affinity, PreferredSchedulingTerm, Toleration, TopologySpreadConstraint
from resnext_operator.api.pod_template import PodTemplate
from resnext_operator.api.training import Training
from resnext_operator.rendering import names

# The node controller marks a lost node as unreachable after 50 s by default (40 s before Kubernetes 1.32). Kubernetes'
# default toleration of 300 s would delay the next attempt by five minutes.
_UNREACHABLE_SECONDS = 30

_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def tolerations(template: PodTemplate) -> list[Toleration]:
    """The user's tolerations, and tolerations that limit how long a pod stays bound to a lost node."""
    written = (each.model_dump(mode="json", by_alias=True, exclude_none=True) for each in template.tolerations)
    lost: list[Toleration] = [
        {
            "key": f"node.kubernetes.io/{taint}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": _UNREACHABLE_SECONDS,
        }
        for taint in ("not-ready", "unreachable")
    ]
    return [*(cast("Toleration", each) for each in written), *lost]


def topology_spread(training: Training, avoided: Sequence[str]) -> list[TopologySpreadConstraint]:
    """The user's constraints; by default workers spread over nodes, so that a lost node affects few of them.

    There is no default if nodes are avoided: an avoided node has the fewest workers, so spreading would prefer it.
    """
    wanted = training.spec.workers.topology_spread_constraints
    if wanted is None:
        by_node = scheduling.Spread(
            max_skew=1, topology_key="kubernetes.io/hostname", when_unsatisfiable="ScheduleAnyway"
        )
        wanted = () if avoided else (by_node,)
    return [_with_default_selector(training, each) for each in wanted]


def affinity(training: Training, template: PodTemplate, avoided: Sequence[str]) -> Affinity:
    """The user's affinity, and a preference for nodes that are not avoided.

    It is not a requirement: a training that fails on every node must reach its backoffLimit, not stay Pending.
    """
    wanted: Affinity = _with_default_selector(training, template.affinity or scheduling.Affinity())
    if avoided:
        others: PreferredSchedulingTerm = {
            "weight": 100,
            "preference": {
                "matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": [node]} for node in avoided]
            },
        }
        wanted.setdefault("nodeAffinity", {}).setdefault(_PREFERRED, []).append(others)
    return wanted


def _with_default_selector(training: Training, constraint: scheduling.Affinity | scheduling.Spread) -> Any:
    """The constraint as a manifest. Terms without a labelSelector select the training's own workers."""
    own = {"matchLabels": {names.TRAINING: training.name, names.ROLE: "worker"}}

    def filled(part: Any) -> Any:
        if isinstance(part, list):
            return [filled(each) for each in part]
        if not isinstance(part, dict):
            return part
        whole = {key: filled(value) for key, value in part.items()}
        return whole | {"labelSelector": whole.get("labelSelector", own)} if "topologyKey" in whole else whole

    return filled(constraint.model_dump(mode="json", by_alias=True, exclude_defaults=True))
