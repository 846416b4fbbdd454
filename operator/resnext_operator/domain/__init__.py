"""Decisions about a training: pure functions of its spec, its status and the observed state.

`decide` is level-triggered: it does not depend on events, and its only memory is the status. A plan deletes only pods
whose outcome the status already records. The plan for a training in its desired state is empty.

`reconciler` calls the actions in order; `admission` checks a training before its pods are created; `startup` detects
failed starts; `rejections` handles rejections by the API server; `attempt_outcome` classifies how an attempt ended;
`conditions` and `progress` update the status; `reasons` and `scheduling_advice` contain reasons and suggested actions.
"""
