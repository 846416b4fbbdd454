"""The NetworkPolicy of a training's pods."""

from resnext_operator.api.objects.shared import NetworkPolicy, NetworkPolicyPeer
from resnext_operator.api.training import Training
from resnext_operator.rendering import names
from resnext_operator.rendering.metadata import owned_metadata


def network_policy(training: Training) -> NetworkPolicy:
    """Allows all traffic between the training's own pods, since Open MPI and NCCL use random ports.

    Other ingress is limited to the metrics ports, from the operator, which polls /progress there, and from the peers
    in `metrics_allowed_from`.
    """
    own: NetworkPolicyPeer = {"podSelector": {"matchLabels": {names.TRAINING: training.name}}}
    operator: NetworkPolicyPeer = {
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": training.site.operator_namespace}},
        "podSelector": {"matchLabels": {"app.kubernetes.io/name": names.OPERATOR}},
    }
    last = names.METRICS_PORT + training.spec.workers.ranks - 1
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": owned_metadata(training, training.name),
        "spec": {
            "podSelector": {"matchLabels": {names.TRAINING: training.name}},
            "policyTypes": ["Ingress"],
            "ingress": [
                {"from": [own]},
                {
                    "from": [operator, *training.site.metrics_allowed_from],
                    "ports": [{"protocol": "TCP", "port": names.METRICS_PORT, "endPort": last}],
                },
            ],
        },
    }
