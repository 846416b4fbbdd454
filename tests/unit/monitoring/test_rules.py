"""Recording and alerting rules, evaluated by promtool, and the runbook."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.prometheus import program

ROOT = Path(__file__).parents[3]
RULES = ROOT / "charts" / "resnext-operator" / "files" / "rules" / "resnext.yaml"
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text(encoding="utf-8")
CASES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("alert_cases.yaml").read_text(encoding="utf-8"))
GROUPS = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
ALERTS: dict[str, Any] = {rule["alert"]: rule for group in GROUPS for rule in group["rules"] if "alert" in rule}
NOW = 180
"""Minutes after which the goodput of the last hour is evaluated."""

GOODPUT: dict[str, tuple[float | None, dict[str, str]]] = {
    "older than the window": (0.75, {"steps": "0+0x120 45+45x59", "startup": "0+60x120 7215+15x59"}),
    # Its first sample already contains the start-up.
    "of 35 s": (20 / 35, {"steps": "_x179 0 20", "startup": "_x179 15 15"}),
    "created again": (0.5, {"steps": "0+60x130 stale _x40 30+0x10", "queueing": "0+1x130 stale _x40 30+0x10"}),
    "deleted": (None, {"steps": "0+60x170 stale", "startup": "0+60x170 stale"}),
    "suspended": (None, {"steps": "600+0x180", "startup": "600+0x180"}),
    "with repeated steps": (0, {"steps": "0+60x170 1800+0x10", "lost": "0+0x170 8400+60x10"}),
    "without numbers": (None, {"steps": "NaN+0x180", "startup": "NaN+0x180"}),
}
"""By training: goodput in the last hour, and wall time in seconds of each activity, once a minute."""

LATER = 75
"""Minutes after which every window of an alert has passed."""


def promtool(*arguments: str | Path) -> str:
    """Output of promtool; fails with it."""
    done = subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    return done.stdout


def alert_test(name: str, alert: str, minutes: int, series: dict[str, str], *fired: dict[str, Any]) -> dict[str, Any]:
    """A test of promtool: the alerts that fire after some minutes of the series."""
    rule = ALERTS[alert]
    expected = [
        {
            "exp_labels": {**each["labels"], **rule["labels"]},
            "exp_annotations": {**rule["annotations"], "description": each["description"]},
        }
        for each in fired
    ]
    return {
        "name": name,
        "interval": "1m",
        "input_series": [{"series": series, "values": values} for series, values in series.items()],
        "alert_rule_test": [{"eval_time": f"{minutes}m", "alertname": alert, "exp_alerts": expected}],
    }


def alert_tests(alert: str, case: dict[str, Any]) -> list[dict[str, Any]]:
    """The tests of an alert: series that fire, that do not, that ended, and whose values are not numbers."""
    minutes, stale = case["minutes"], [case["stale"]] if "stale" in case else []
    tests = [alert_test("does not fire", alert, minutes, series) for series in case["quiet"]]
    for each in case["fires"]:
        ended = {name: f"{values.removesuffix(' stale')} stale" for name, values in each["series"].items()}
        numberless = dict.fromkeys(each["series"], "NaN " * (minutes + 1))
        tests.append(alert_test("fires", alert, minutes, each["series"], each))
        tests.append(alert_test("stale", alert, minutes + LATER, ended, *stale))
        if numberless:
            tests.append(alert_test("NaN", alert, minutes, numberless))
    return tests


def test_every_alert_has_a_test_case() -> None:
    """The parametrized test below covers the rules file."""
    assert list(CASES) == list(ALERTS)


@pytest.mark.parametrize("alert", CASES)
def test_alert_fires_only_for_its_condition(alert: str, tmp_path: Path) -> None:
    """Fires, does not fire, stale and NaN input; labels and description are compared."""
    file = tmp_path / "test.yaml"
    tests = alert_tests(alert, CASES[alert])
    assert {each["name"] for each in tests} == {"fires", "does not fire", "stale", "NaN"}
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", file)


@pytest.mark.parametrize("leaders", [1, 2])
def test_goodput_covers_wall_time_of_last_hour(leaders: int, tmp_path: Path) -> None:
    """A training that is younger than an hour counts from its start; the series of two leaders can overlap."""
    record = "namespace_training:resnext_training_goodput:ratio1h"
    series: dict[str, str] = {}
    samples = []
    for training, (expected, activities) in GOODPUT.items():
        for activity, values in activities.items():
            labels = f'namespace="lab",training="{training}",activity="{activity}"'
            series |= {f'resnext_training_wall_seconds{{{labels},pod="{pod}"}}': values for pod in range(leaders)}
        if expected is not None:
            samples.append({"labels": f'{record}{{namespace="lab",training="{training}"}}', "value": expected})
    test = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [{"expr": record, "eval_time": f"{NOW}m", "exp_samples": samples}],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [test]}))
    promtool("test", "rules", file)


def test_rules_file_is_valid() -> None:
    """promtool, of the oldest supported version in Debian 12, parses all rules and finds no duplicates."""
    assert f"{sum(len(group['rules']) for group in GROUPS)} rules found" in promtool(
        "check", "rules", "--lint=all", RULES
    )


@pytest.mark.parametrize("alert", ALERTS)
def test_alert_describes_itself_and_its_runbook(alert: str) -> None:
    """An alert has a summary, a description with the value, a severity, and a link to the section of its name."""
    rule = ALERTS[alert]
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
    assert "$value" in rule["annotations"]["description"]
    # The chart replaces RUNBOOK_URL.
    assert rule["annotations"]["runbook_url"] == f"RUNBOOK_URL#{alert.lower()}"


def test_runbook_has_one_section_for_each_alert() -> None:
    """The sections have the order of the rules, and each has the four parts."""
    sections = re.split(r"^## ", RUNBOOK, flags=re.MULTILINE)[1:]
    titles = [section.partition("\n")[0] for section in sections]
    assert titles == ["Silencing", *ALERTS]
    for section in sections[1:]:
        parts = re.findall(r"^\*\*(.+?)\.\*\*", section, re.MULTILINE)
        assert parts == ["Meaning", "Confirm", "Fix", "Silence"], section
