"""Which nodes the pods are drawn to and kept from."""

from collections.abc import Sequence
from typing import Any, Final, cast

from resnext_operator.api import scheduling
from resnext_operator.api.objects.pod import Affinity, PreferredSchedulingTerm, Toleration, TopologySpreadConstraint
from resnext_operator.api.pod_template import PodTemplate
from resnext_operator.api.training import Training
from resnext_operator.rendering import names

# A lost node is noticed after 40 s by default; five minutes more of waiting would be five minutes without training.
_UNREACHABLE_SECONDS = 30

_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"


def tolerations(template: PodTemplate) -> list[Toleration]:
    """What the user wrote, and for how long a pod stays on a lost node."""
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
    """What the user wants; else even, because one node's loss should cost as few workers as it can.

    Not where a node is avoided: evenness would draw workers to the very node that has none left.
    """
    wanted = training.spec.workers.topology_spread_constraints
    if wanted is None:
        by_node = scheduling.Spread(
            max_skew=1, topology_key="kubernetes.io/hostname", when_unsatisfiable="ScheduleAnyway"
        )
        wanted = () if avoided else (by_node,)
    return [_with_default_selector(training, each) for each in wanted]


def affinity(training: Training, template: PodTemplate, avoided: Sequence[str]) -> Affinity:
    """What the user wants; and other nodes than those avoided, if there are any.

    Only preferred: a fault of the training's own must end in its backoffLimit, not in Pending.
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
    """As it stands in a pod, with the selector of the training's workers where none is given."""
    own = {"matchLabels": {names.TRAINING: training.name, names.ROLE: "worker"}}

    def filled(part: Any) -> Any:
        if isinstance(part, list):
            return [filled(each) for each in part]
        if not isinstance(part, dict):
            return part
        whole = {key: filled(value) for key, value in part.items()}
        return whole | {"labelSelector": whole.get("labelSelector", own)} if "topologyKey" in whole else whole

    return filled(constraint.model_dump(mode="json", by_alias=True, exclude_defaults=True))
