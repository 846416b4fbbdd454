"""The reasons of conditions and events, each with its meaning and a remedy."""

import ast
import inspect
import itertools
from collections.abc import Iterator

from hack.codegen.reference.tables import table
from resnext_operator.domain import reasons
from resnext_operator.domain.reasons import SUGGESTED_ACTIONS, Reason

_ACTIONS_IN_MESSAGES = {
    Reason.INVALID: "delete the object, or choose another name for the training; then recreate the training",
    Reason.FORBIDDEN_BY_OPERATOR: "use a claim instead of a hostPath, or allow the field with `allow.hostPaths` or "
    "`allow.hostNetwork` in the chart's values",
    Reason.VOLUME_NOT_SHAREABLE: "use a ReadOnlyMany or ReadWriteMany claim, or one worker",
    Reason.CLAIM_NOT_OWNED: "set `checkpoints.claimName` to use the claim, or choose another name for the training",
    Reason.VOLUME_STILL_ATTACHED: (
        "if the old node is permanently down, taint it with `node.kubernetes.io/out-of-service`"
    ),
    Reason.CLAIM_NOT_FOUND: "create the claim",
    Reason.SUSPENDED: "set `spec.suspend` to false to resume the training",
    Reason.SSH_KEYS_RECREATED: "find out what deleted the Secret",
    Reason.OUT_OF_MEMORY: "set or raise `spec.workers.resources.limits.memory`, or lower `spec.training.batchSize`",
}
"""Actions for reasons whose messages contain their own, and for reasons of normal events."""


def page() -> str:
    """Every reason, in the order of a training's lifecycle."""
    texts = docstrings(inspect.getsource(reasons), Reason.__name__)
    actions = {**SUGGESTED_ACTIONS, **_ACTIONS_IN_MESSAGES}
    rows = [(f"`{reason.value}`", texts[reason.name], _sentence(actions.get(reason, ""))) for reason in Reason]
    return (
        "# Reasons of conditions and events\n\n"
        "`kubectl describe rnx NAME` shows the reasons. A warning event contains the action, in most cases after an\n"
        "arrow (→).\n\n" + "\n".join(table(("Reason", "Meaning", "Action"), rows))
    )


def _sentence(action: str) -> str:
    return f"{action[0].upper()}{action[1:]}." if action else ""


def docstrings(source: str, name: str) -> dict[str, str]:
    """The docstring of each member of the enum `name`, from its source; Python does not keep them at run time."""
    (enum,) = (node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    return dict(_texts(enum.body))


def _texts(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for statement, following in itertools.pairwise(body):
        match statement, following:
            case ast.Assign(targets=[ast.Name(id=member)]), ast.Expr(value=ast.Constant(value=str(text))):
                yield member, " ".join(text.split())
