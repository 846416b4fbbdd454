"""Public interface: metrics with labels and help, reasons with suggested actions, command-line help."""

import contextlib
import io
import re
from collections.abc import Callable, Iterable
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hack.codegen.reference.metrics import RUNNING
from resnext_operator.cli import main as operator_main
from resnext_operator.domain.reasons import SUGGESTED_ACTIONS, Reason
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.metrics import Metrics
from resnext_trainer.cli.main import main as trainer_main
from resnext_trainer.runtime.telemetry import for_rank
from tests.golden.goldens import check, dump

_INCLUDED = ("le", "quantile")


def described(exposition: str) -> list[dict[str, Any]]:
    """Name, type, labels and help of each metric, without the `_created` series."""
    families = [each for each in text_string_to_metric_families(exposition) if not each.name.endswith("_created")]
    return [
        {
            "name": each.name,
            "type": each.type,
            "labels": sorted({label for sample in each.samples for label in sample.labels} - {*_INCLUDED}),
            "help": each.documentation,
        }
        for each in families
    ]


def test_operator_metrics_match_golden() -> None:
    """Every metric of the operator, with a training in the cache."""
    cache = Cache()
    cache.upsert(RUNNING)
    metrics = Metrics(cache, lambda: 0)
    metrics.leading = True
    metrics.requested("GET", "200")
    check("operator-metrics.yaml", dump(described(generate_latest(metrics.registry).decode())))


def test_trainer_metrics_match_golden() -> None:
    """Every metric of a rank, as Prometheus reads it."""
    telemetry = for_rank(1)
    telemetry.metrics.info(architecture="resnext50-32x4d")
    with urlopen(f"http://127.0.0.1:{telemetry.server.start(0)}/metrics") as answer:
        check("trainer-metrics.yaml", dump(described(answer.read().decode())))


def test_reasons_match_golden() -> None:
    """Every reason of events and conditions, with the suggested action of its warning."""
    check("reasons.yaml", dump({reason.value: SUGGESTED_ACTIONS.get(reason, "") for reason in Reason}))


Main = Callable[[list[str]], int]


def help_of(main: Main, command: list[str]) -> str:
    """Output of --help."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main([*command, "--help"])
    return out.getvalue()


def subcommands(text: str) -> list[str]:
    """The names that a help lists under its COMMAND placeholder or heading."""
    listed = text.partition("\n  COMMAND\n")[2].partition("\n\n")[0]
    return re.findall(r"^    (\S+)", listed, re.MULTILINE)


def normalized(text: str) -> str:
    """One line for each paragraph and each option: line breaks and columns depend on Python's version."""
    # Until 3.12 argparse repeats the metavar: -f FILE, --filename FILE.
    text = re.sub(r"(-\w) (\S+|\{[^}]*\}), (--[\w-]+) \2", r"\1, \3 \2", text)
    lines: list[str] = []
    for line in text.splitlines():
        usage = bool(lines) and lines[-1].startswith("usage:") and line.startswith(" ")
        if usage or re.match(r" {8,}\S", line):
            lines[-1] += f"{' ' if usage else '  '}{line.strip()}"
        else:
            indent = " " * (len(line) - len(line.lstrip(" ")))
            lines.append(indent + re.sub(r" {2,}", "  ", line.strip()))
    return re.sub(r"(?<=\S) {2,}", "  ", "\n".join(lines)).strip() + "\n"


def helps(main: Main, command: Iterable[str] = ()) -> dict[str, str]:
    """The help of a command and of all commands below it."""
    given = list(command)
    text = help_of(main, given)
    found = {" ".join(given): normalized(text)}
    for each in subcommands(text):
        found |= helps(main, [*given, each])
    return found


@pytest.mark.parametrize(("program", "main"), [("resnext-train", trainer_main), ("resnext-operator", operator_main)])
def test_help_matches_golden(program: str, main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    """The help of the program and of every subcommand, in a wide terminal."""
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("NO_COLOR", "1")
    texts = {f"{program} {command}".strip(): text for command, text in helps(main).items()}
    assert len(texts) > 4, f"subcommands of {program} are missing"
    check(f"{program}-help.yaml", dump(texts))
