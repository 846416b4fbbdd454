"""Events."""

from typing import Literal, TypedDict


class EventMeta(TypedDict):
    name: str
    namespace: str


class ObjectReference(TypedDict):
    apiVersion: str
    kind: str
    namespace: str
    name: str
    uid: str


class EventSource(TypedDict):
    component: str


class Event(TypedDict):
    metadata: EventMeta
    involvedObject: ObjectReference
    type: Literal["Normal", "Warning"]
    reason: str
    message: str
    source: EventSource
    reportingComponent: str
    firstTimestamp: str
    lastTimestamp: str
    count: int
