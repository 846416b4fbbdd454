"""Which nodes pods may go to, beside what nodeSelector and tolerations can say: typed, in a pod's own spelling.

Selectors of pods reach no other namespace. Left out they mean the training's own workers, which is what most want.
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
    "Exists and DoesNotExist take no values, the other operators do",
)


class NodeRequirement(Config):
    """What a node's label, or field, must be."""

    key: LabelKey
    """The label's key, or the field: metadata.name."""

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"]
    """How its value and the values below compare."""

    values: Values = ()
    """Values; one whole number for Gt and Lt."""

    rules = (
        _FITTING,
        Rule(
            "!(self.operator in ['Gt', 'Lt']) || (has(self.values) && size(self.values) == 1)",
            lambda it: it.operator not in ("Gt", "Lt") or len(it.values) == 1,
            "values",
            "Gt and Lt compare with one value: write one",
        ),
        Rule(
            "!(self.operator in ['Gt', 'Lt']) || !has(self.values) || self.values.all(it, it.matches('^[0-9]{1,18}$'))",
            lambda it: it.operator not in ("Gt", "Lt") or all(map(re.compile("[0-9]{1,18}").fullmatch, it.values)),
            "values",
            "Gt and Lt compare whole numbers: write one",
        ),
    )


class NodeTerm(Config):
    """Requirements that a node meets all of."""

    match_expressions: Annotated[tuple[NodeRequirement, ...], Field(max_length=8)] = ()
    """Match by node label."""

    match_fields: Annotated[tuple[NodeRequirement, ...], Field(max_length=8)] = ()
    """Match by node field."""

    rules = (
        Rule(
            "!has(self.matchFields) || self.matchFields.all(it, it.key == 'metadata.name' "
            "&& it.operator in ['In', 'NotIn'] && has(it.values) && size(it.values) == 1 "
            f"&& it.values.all(name, name.matches(r'{DOMAIN}')))",
            lambda it: all(map(_names_a_node, it.match_fields)),
            "matchFields",
            "the only field of nodes is metadata.name, with In or NotIn and the name of one node",
        ),
    )


class NodeTerms(Config):
    """Terms of which a node meets one."""

    node_selector_terms: Annotated[tuple[NodeTerm, ...], Field(min_length=1, max_length=8)]
    """A list of node selector terms. The terms are ORed."""


class PreferredNodes(Config):
    """Nodes that are better than others."""

    weight: Weight
    """How much better."""

    preference: NodeTerm
    """Which nodes."""


class NodeAffinity(Config):
    """Nodes by their labels."""

    required_during_scheduling_ignored_during_execution: NodeTerms | None = None
    """Required terms."""

    preferred_during_scheduling_ignored_during_execution: Annotated[
        tuple[PreferredNodes, ...], Field(max_length=8)
    ] = ()
    """Preferred terms (weighted)."""


def _names_a_node(requirement: NodeRequirement) -> bool:
    named = requirement.key == "metadata.name" and requirement.operator in ("In", "NotIn")
    return named and len(requirement.values) == 1 and re.fullmatch(DOMAIN, requirement.values[0]) is not None


class LabelRequirement(Config):
    """What a pod's label must be."""

    key: LabelKey
    """The label's key."""

    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    """How its value and the values below compare."""

    values: Values = ()
    """Values."""

    rules = (_FITTING,)


class LabelSelector(Config):
    """Pods of the same namespace by their labels; an empty one means all of them."""

    match_labels: Labels = {}
    """Labels that a pod has."""

    match_expressions: Annotated[tuple[LabelRequirement, ...], Field(max_length=8)] = ()
    """Requirements that a pod meets."""

    rules = (qualified_keys("match_labels"),)


class PodTerm(Config):
    """Being where certain pods are."""

    label_selector: LabelSelector | None = None
    """Which pods; left out, the training's workers."""

    topology_key: LabelKey
    """Label of nodes that says what one place is, such as topology.kubernetes.io/zone."""


class PreferredPods(Config):
    """Pods whose company is better, or worse, than others'."""

    weight: Weight
    """How much."""

    pod_affinity_term: PodTerm
    """Which pods."""


class PodAffinity(Config):
    """Nodes by the pods that they have."""

    required_during_scheduling_ignored_during_execution: Annotated[tuple[PodTerm, ...], Field(max_length=8)] = ()
    """Required terms."""

    preferred_during_scheduling_ignored_during_execution: Annotated[tuple[PreferredPods, ...], Field(max_length=8)] = ()
    """Preferred terms (weighted)."""


class Affinity(Config):
    """Affinity of the pods."""

    node_affinity: NodeAffinity | None = None
    """By the nodes' labels."""

    pod_affinity: PodAffinity | None = None
    """To where certain pods are."""

    pod_anti_affinity: PodAffinity | None = None
    """Away from where certain pods are."""


class Spread(Config):
    """How evenly pods lie over places."""

    max_skew: Annotated[int, Field(ge=1, le=256)]
    """Most pods that one place has more than another."""

    topology_key: LabelKey
    """Label of nodes that says what one place is."""

    when_unsatisfiable: Literal["DoNotSchedule", "ScheduleAnyway"]
    """Whether a pod waits where it would be uneven."""

    label_selector: LabelSelector | None = None
    """Which pods count; left out, the training's workers."""

    min_domains: Annotated[int, Field(ge=1, le=256)] | None = None
    """Places that there must be, with DoNotSchedule."""

    rules = (
        Rule(
            "!has(self.minDomains) || self.whenUnsatisfiable == 'DoNotSchedule'",
            lambda it: it.min_domains is None or it.when_unsatisfiable == "DoNotSchedule",
            "minDomains",
            "a least number of places needs whenUnsatisfiable DoNotSchedule: set it, or leave out minDomains",
        ),
    )
