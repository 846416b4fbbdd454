"""The reasons of conditions and events, each with its meaning and a remedy."""

import ast
import inspect
import itertools
from collections.abc import Iterator

from hack.codegen.reference.tables import table
from resnext_operator.domain import reasons
from resnext_operator.domain.reasons import SUGGESTED_ACTIONS, Reason


def page() -> str:
    """Every reason, in the order of a training's lifecycle."""
    texts = docstrings(inspect.getsource(reasons), Reason.__name__)
    rows = [
        (f"`{reason.value}`", texts[reason.name], _sentence(SUGGESTED_ACTIONS.get(reason, ""))) for reason in Reason
    ]
    return (
        "# Reasons of conditions and events\n\n"
        "`kubectl describe rnx NAME` shows the reasons. A warning event repeats the action after an arrow (→).\n\n"
        + "\n".join(table(("Reason", "Meaning", "Action"), rows))
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
