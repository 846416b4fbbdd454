"""Affinity and topology spread constraints of pods, with the field names of the Kubernetes API.

Pod selectors apply to the namespace of the training. If unset, they match the workers of the training.
"""

import re
from typing import Annotated, Literal

from pydantic import Field

from resnext_operator.api.volumes import DOMAIN, LabelKey, Labels, LabelValue, qualified_keys
from resnext_trainer.config.rules import Config, Rule

Values = Annotated[tuple[LabelValue, ...], Field(max_length=32)]
Weight = Annotated[int, Field(ge=1, le=100)]

_FITTING = Rule(
    "(self.operator in ['Exists', 'DoesNotExist']) == (!has(self.values) || size(self.values) == 0)",
    lambda it: (it.operator in ("Exists", "DoesNotExist")) == (not it.values),
    "values",
    "must be empty if operator is Exists or DoesNotExist, and non-empty otherwise",
)


class NodeRequirement(Config):
    """Requirement on a label or field of a node."""

    key: LabelKey
    """Label key that the selector applies to; in matchFields, the field metadata.name."""

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """Relationship of the key to the set of values."""

    values: Values = ()
    """Values of the label. Must be empty for Exists and DoesNotExist, and a single integer for Gt and Lt."""

    rules = (
        _FITTING,
        Rule(
            "!(self.operator in ['Gt', 'Lt']) || (has(self.values) && size(self.values) == 1)",
            lambda it: it.operator not in ("Gt", "Lt") or len(it.values) == 1,
            "values",
            "must have exactly one element if operator is Gt or Lt",
        ),
        Rule(
            "!(self.operator in ['Gt', 'Lt']) || !has(self.values) || self.values.all(it, it.matches('^[0-9]{1,18}$'))",
            lambda it: it.operator not in ("Gt", "Lt") or all(map(re.compile("[0-9]{1,18}").fullmatch, it.values)),
            "values",
            "must be a non-negative integer if operator is Gt or Lt",
        ),
    )


class NodeTerm(Config):
    """Node selector term. Its requirements are ANDed."""

    match_expressions: Annotated[tuple[NodeRequirement, ...], Field(max_length=8)] = ()
    """Node selector requirements by node's labels."""

    match_fields: Annotated[tuple[NodeRequirement, ...], Field(max_length=8)] = ()
    """Node selector requirements by node's fields."""

    rules = (
        Rule(
            "!has(self.matchFields) || self.matchFields.all(it, it.key == 'metadata.name' "
            "&& it.operator in ['In', 'NotIn'] && has(it.values) && size(it.values) == 1 "
            f"&& it.values.all(name, name.matches(r'{DOMAIN}')))",
            lambda it: all(map(_names_a_node, it.match_fields)),
            "matchFields",
            "supports only key metadata.name with operator In or NotIn and the name of one node",
        ),
    )


class NodeTerms(Config):
    """Node selector: the node must match at least one term."""

    node_selector_terms: Annotated[tuple[NodeTerm, ...], Field(min_length=1, max_length=8)]
    """Node selector terms. The terms are ORed."""


class PreferredNodes(Config):
    """Preferred scheduling term."""

    weight: Weight
    """Weight associated with matching the corresponding nodeSelectorTerm, in the range 1-100."""

    preference: NodeTerm
    """Node selector term, associated with the corresponding weight."""


class NodeAffinity(Config):
    """Node affinity scheduling rules."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = None
    """If a node does not meet these requirements at scheduling time, the pod is not scheduled onto it."""

    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredNodes, ...], Field(max_length=8)
    ] = ()
    """The scheduler prefers nodes that match these terms, but may choose other nodes."""


def _names_a_node(requirement: NodeRequirement) -> bool:
    named = requirement.key == "metadata.name" and requirement.operator in ("In", "NotIn")
    return named and len(requirement.values) == 1 and re.fullmatch(DOMAIN, requirement.values[0]) is not None


class LabelRequirement(Config):
    """Requirement on a label of a pod."""

    key: LabelKey
    """Label key that the selector applies to."""

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """Relationship of the key to the set of values."""

    values: Values = ()
    """Values of the label. Must be empty for Exists and DoesNotExist."""

    rules = (_FITTING,)


class LabelSelector(Config):
    """Label query over the pods of the namespace. An empty label selector matches all pods."""

    match_labels: Labels = {}
    """Map of {key,value} pairs. The requirements are ANDed."""

    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=8)] = ()
    """Label selector requirements. The requirements are ANDed."""

    rules = (qualified_keys("match_labels"),)


class PodTerm(Config):
    """Pod affinity term: a set of pods that this pod is co-located (affinity) or not co-located (anti-affinity) with,
    in a topology domain."""

    label_selector: LabelSelector | None = None
    """Label query over a set of pods. If unset, it selects the workers of this training."""

    topology_key: LabelKey
    """Key of node labels, such as topology.kubernetes.io/zone. Nodes with the same value are in the same topology
    domain."""


class PreferredPods(Config):
    """Preferred pod affinity term."""

    weight: Weight
    """Weight associated with matching the corresponding podAffinityTerm, in the range 1-100."""

    pod_affinity_term: PodTerm
    """Pod affinity term, associated with the corresponding weight."""


class PodAffinity(Config):
    """Pod affinity or anti-affinity scheduling rules."""

    required_during_scheduling_ignored_during_execution: Annotated[tuple[PodTerm, ...], Field(max_length=8)] = ()
    """If a node does not meet these requirements at scheduling time, the pod is not scheduled onto it."""

    preferred_during_scheduling_ignored_during_execution: Annotated[tuple[PreferredPods, ...], Field(max_length=8)] = ()
    """The scheduler prefers nodes that meet these requirements, but may choose other nodes."""


class Affinity(Config):
    """Affinity scheduling rules."""

    node_affinity: NodeAffinity | None = None
    """Node affinity scheduling rules for the pod."""

    pod_affinity: PodAffinity | None = None
    """Pod affinity scheduling rules (for example, co-locate this pod in the same node or zone as other pods)."""

    pod_anti_affinity: PodAffinity | None = None
    """Pod anti-affinity scheduling rules (for example, avoid putting this pod in the same node or zone as other
    pods)."""


class Spread(Config):
    """How to spread matching pods among the topology domains."""

    max_skew: Annotated[int, Field(ge=1, le=256)]
    """Maximum permitted difference in the number of matching pods between two topology domains."""

    topology_key: LabelKey
    """Key of node labels. Nodes with the same value of this label are in the same topology domain."""

    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    """How to deal with a pod that does not satisfy the spread constraint. DoNotSchedule: do not schedule it.
    ScheduleAnyway: schedule it in any location, with precedence for domains that reduce the skew."""

    label_selector: LabelSelector | None = None
    """Label query that selects the pods to count. If unset, the workers of this training are counted."""

    min_domains: Annotated[int, Field(ge=1, le=256)] | None = None
    """Minimum number of eligible topology domains. Requires whenUnsatisfiable DoNotSchedule."""

    rules = (
        Rule(
            "!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'",
            lambda it: it.min_domains is None or it.when_unsatisfiable == "DoNotSchedule",
            "minDomains",
            "requires whenUnsatisfiable DoNotSchedule: set whenUnsatisfiable to DoNotSchedule or remove minDomains",
        ),
    )
