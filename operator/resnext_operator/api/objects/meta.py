"""Common types of all objects (meta/v1)."""

from typing import NotRequired, TypedDict


class OwnerReference(TypedDict):
    apiVersion: str
    kind: str
    name: str
    uid: str
    controller: bool
    blockOwnerDeletion: bool


class ObjectMeta(TypedDict):
    name: str
    namespace: str
    labels: dict[str, str]
    ownerReferences: NotRequired[list[OwnerReference]]
    annotations: NotRequired[dict[str, str]]
    resourceVersion: NotRequired[str]


class LabelSelector(TypedDict):
    matchLabels: dict[str, str]


class LocalObjectReference(TypedDict):
    name: str


class Preconditions(TypedDict):
    uid: str


class DeleteOptions(TypedDict):
    preconditions: Preconditions
    gracePeriodSeconds: NotRequired[int]
