"""Every decision about a training, as functions of its spec, its status and the observed state. Pure.

`decide` never asks which event came last, and it keeps no memory but the status. A plan deletes only evidence that
the status already records; a plan for a training at rest is empty.

`reconciler` decides, in order; `admission` checks a training before its pods are created; `startup` finds starts
that failed; `rejections` handles what the API server rejected; `attempt_outcome` classifies how an attempt ended;
`conditions` and `progress` keep the status; `reasons` has the reasons and suggested actions.
"""
