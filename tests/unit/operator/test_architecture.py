"""docs/architecture.md: which function sets which condition, and the transitions between phases."""

import ast
import re
from pathlib import Path

from resnext_operator.api.status import ConditionType, Phase

ROOT = Path(__file__).parents[3]
DOMAIN = ROOT / "operator" / "resnext_operator" / "domain"
DOCUMENT = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def setters():
    """Condition, status and function of each call of Conditions.set in the package domain."""
    for path in sorted(DOMAIN.rglob("*.py")):
        module = ".".join(path.relative_to(DOMAIN).with_suffix("").parts)
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("onditions.set"):
                    kind, holds = call.args[0], call.args[1]
                    assert isinstance(kind, ast.Attribute), f"{module}: write the condition as ConditionType.X"
                    status = str(holds.value) if isinstance(holds, ast.Constant) else "True or False"
                    yield ConditionType[kind.attr].value, status, f"{module}.{function.name}"


def documented():
    """The first three columns of the table of conditions."""
    table = DOCUMENT.partition("| Condition | Status | Set by |")[2].partition("\n\n")[0]
    yield from re.findall(r"^\| (\w+) \| ([\w ]+) \| `([\w.]+)` \|", table, re.MULTILINE)


def test_condition_table_matches_code():
    """The table lists each function that sets a condition, with the status that it sets, and no other."""
    assert sorted(set(documented())) == sorted(set(setters()))
    assert {condition for condition, _, _ in documented()} == {each.value for each in ConditionType}


def test_state_diagram_shows_every_phase():
    """Each phase is entered and, unless it is an end, left."""
    diagram = DOCUMENT.partition("stateDiagram-v2")[2].partition("```")[0]
    edges = re.findall(r"^ *(\S+) --> ([^\s:]+)", diagram, re.MULTILINE)
    assert {target for _, target in edges} - {"[*]"} == {phase.value for phase in Phase}
    assert {source for source, _ in edges} - {"[*]"} == {phase.value for phase in Phase}
    assert {source for source, target in edges if target == "[*]"} == {"Succeeded", "Failed"}
