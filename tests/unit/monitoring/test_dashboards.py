"""The dashboards, and their queries on a real Prometheus."""

import json
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from hack.codegen.dashboards import colors
from hack.codegen.reference.metrics import ExampleGpu
from hack.codegen.reference.metrics import page as metrics_page
from hack.monitoring import RULES
from resnext_operator.api.groupversion import KIND
from resnext_operator.api.status import Phase, Status
from resnext_operator.domain.goodput import ACTIVITIES
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.metrics import Metrics as OperatorMetrics
from resnext_trainer.runtime.gpu_metrics import GpuMetrics
from resnext_trainer.runtime.metrics import Metrics as RankMetrics
from resnext_trainer.runtime.metrics import Phase as StepPhase
from tests.support.monitoring import DASHBOARDS, dashboard_queries, panels, recording_rules, substitute
from tests.support.prometheus import Target, prometheus, query

ROOT = Path(__file__).parents[3]
BOARDS: dict[str, Any] = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in DASHBOARDS}
PANELS = [pytest.param(panel, id=f"{name}-{panel['title']}") for name in BOARDS for panel in panels(BOARDS[name])]
RECORDED = (ROOT / "tests" / "fixtures" / "dcgm-exporter" / "metrics.txt").read_bytes()
SECONDS = 120


def ago(seconds: float) -> str:
    """A time as the API server writes it."""
    return (datetime.now(UTC) - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def status(phase: str, **fields: Any) -> dict[str, Any]:
    """Status of a training with one attempt."""
    attempt = {"number": 1, "startTime": ago(600), "workers": 2}
    return {"phase": phase, "startTime": ago(660), "attempts": [attempt], "failures": 1, "disruptions": 1, **fields}


RUNNING = status(
    "Running",
    reason="StepsProgressing",
    progress={
        **{"epoch": 0.5, "epochs": 8, "step": 80, "steps": 160, "imagesPerSecond": 640.0, "loss": 0.5},
        **{"top1": 0.7, "top5": 0.9, "bestTop1": 0.72, "updatedTime": ago(2)},
        "estimatedCompletionTime": ago(-600),
    },
    checkpoint={"step": 70, "time": ago(60), "path": "/checkpoints/run/step-70"},
)
FAILED = status("Failed", reason="InvalidData", completionTime=ago(30))


class ScrapedOperator:
    """The metrics of an operator that reconciles trainings between two scrapes."""

    def __init__(self) -> None:
        self.cache, self.scrapes = Cache(), 0
        self.store("birds", FAILED)
        self.metrics = OperatorMetrics(self.cache, lambda: 0)
        self.metrics.leading = True
        self.metrics.recorded(Status(), Status.parse(RUNNING), ago(600), datetime.now(UTC))

    def store(self, name: str, fields: dict[str, Any]) -> None:
        metadata = {"namespace": "lab", "name": name, "uid": name, "resourceVersion": str(self.scrapes)}
        self.cache.upsert({"kind": KIND, "metadata": metadata, "spec": {}, "status": fields})

    def exposition(self) -> bytes:
        self.scrapes += 1
        seconds = {"steps": 528 + self.scrapes, "startup": 66, "queueing": 66}
        self.store("flowers", {**RUNNING, "goodput": {"ratio": 0.8, "seconds": seconds}})
        self.metrics.reconciled.observe(0.02)
        self.metrics.requested("PATCH", "200")
        return generate_latest(self.metrics.registry)


class ScrapedRank:
    """The metrics of a rank that completes a step between two scrapes."""

    def __init__(self, rank: int) -> None:
        self.metrics = RankMetrics(rank)
        self.gpu = CollectorRegistry()
        self.gpu.register(GpuMetrics(str(rank), ExampleGpu(), 0))
        self.metrics.info(architecture="resnext101-32x4d", precision="fp16", xla="true", pipeline="dali", device="gpu")
        self.metrics.accuracy(0.7, 0.9)
        self.metrics.loss(0.5)
        self.metrics.learning_rate(0.1)
        self.metrics.loss_scale(32768)
        self.metrics.epoch(0.5)
        self.metrics.checkpoint_saved(datetime.now(UTC))
        self.metrics.checkpoint_interval(900)
        self.images = 0
        self.metrics.watch_reads(lambda: (self.images, 110_000 * self.images))

    def exposition(self) -> bytes:
        self.images += 256
        self.metrics.images(256)
        self.metrics.phase_done("data_wait", 0.1)
        self.metrics.phase_done("compute", 0.8)
        self.metrics.step_done(0.9)
        return self.metrics.exposition() + generate_latest(self.gpu)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Any]]:
    """A Prometheus that scrapes an operator, two ranks, and two kinds of DCGM exporters."""
    targets = {"operator": Target(ScrapedOperator().exposition, {"namespace": "resnext-system", "pod": "o"}, True)}
    for rank in (0, 1):
        labels = {"namespace": "lab", "training": "flowers", "pod": f"flowers-worker-{rank}-0"}
        targets[f"rank-{rank}"] = Target(ScrapedRank(rank).exposition, labels)
    exporter = {"namespace": "gpu-operator", "pod": "dcgm-exporter-x"}
    first, second = (RECORDED.replace(f'pod="flowers-worker-{other}-0"'.encode(), b'pod=""') for other in (1, 0))
    # The exporter's labels are renamed to exported_pod and exported_namespace, or kept.
    targets["dcgm-renamed"] = Target(lambda: first, exporter)
    targets["dcgm-honored"] = Target(lambda: second, exporter, True)
    with prometheus(targets, RULES, tmp_path_factory.mktemp("prometheus")) as api:
        yield api


class TestQueries:
    def test_queries_of_panels_and_rules_return_data(self, api: Callable[[str], Any]) -> None:
        """Every query of every panel and annotation, and every recording rule, returns finite numbers."""
        missing = {*dashboard_queries("lab", "flowers", "resnext-system", gpus=True), *recording_rules()}
        deadline = time.monotonic() + SECONDS
        while missing and time.monotonic() < deadline:
            missing = {each for each in missing if not any(_is_number(found) for found in query(api, each))}
            time.sleep(0.5)
        assert not missing

    def test_rules_are_evaluated_without_errors(self, api: Callable[[str], Any]) -> None:
        """Prometheus evaluates the alert expressions without errors; they return data only in case of a fault."""
        rules = [rule for group in api("rules")["groups"] for rule in group["rules"]]
        assert {(rule["name"], rule["health"], rule.get("lastError")) for rule in rules} == {
            (rule["name"], "ok", None) for rule in rules
        }
        assert len(rules) > 20

    def test_gpu_panels_show_gpus_of_training_only(self, api: Callable[[str], Any]) -> None:
        """There is one series for each pod of the training, with both ways of labeling, and none for unused GPUs."""
        for panel in panels(BOARDS["resnext-training"]):
            if "DCGM" in panel["targets"][0]["expr"]:
                expression = substitute(panel["targets"][0]["expr"], {"namespace": "lab", "training": "flowers"})
                found = {(each["metric"]["pod"], each["metric"]["gpu"]) for each in query(api, expression)}
                assert found == {("flowers-worker-0-0", "0"), ("flowers-worker-1-0", "1")}, panel["title"]

    def test_variables_offer_values(self, api: Callable[[str], Any]) -> None:
        """The variables offer the namespaces, trainings and ranks that exist."""
        values = {"namespace": "lab", "training": "flowers"}
        offered = {
            (board, variable["name"]): self._values(api, substitute(variable["query"], values))
            for board in BOARDS
            for variable in BOARDS[board]["templating"]["list"]
            if variable["type"] == "query"
        }
        assert offered == {
            ("resnext-fleet", "namespace"): {"lab"},
            ("resnext-operator", "namespace"): {"resnext-system"},
            ("resnext-training", "namespace"): {"lab"},
            ("resnext-training", "training"): {"birds", "flowers"},
            ("resnext-training", "rank"): {"0", "1"},
        }

    @staticmethod
    def _values(api: Callable[[str], Any], query_of_variable: str) -> set[str]:
        parts = re.fullmatch(r"label_values\((.*), (\w+)\)", query_of_variable)
        assert parts
        return {each["metric"][parts[2]] for each in query(api, parts[1])}


def _is_number(found: dict[str, Any]) -> bool:
    return found["value"][1] not in ("NaN", "+Inf", "-Inf")


def test_dashboards_and_rules_query_every_metric() -> None:
    """Each documented metric is queried, and no other."""
    pattern = r"(?:resnext|workqueue|leader_election|process)_[a-z0-9_]+"
    defined = set(re.findall(rf"^\| `({pattern})`", metrics_page(), re.MULTILINE))
    text = RULES.read_text(encoding="utf-8") + "".join(path.read_text(encoding="utf-8") for path in DASHBOARDS)
    queried = {re.sub("_(bucket|sum|count)$", "", name) for name in re.findall(rf"(?<![\w:])({pattern})", text)}
    of_process = {name for name in defined if name.startswith("process_")}
    assert queried - of_process == defined - of_process
    assert {name for name in queried if name.startswith("process_")} <= of_process


class TestPanels:
    @pytest.mark.parametrize("panel", PANELS)
    def test_panel_is_described_completely(self, panel: dict[str, Any]) -> None:
        """A panel has a description, a unit, a data source, thresholds, and a legend for each query."""
        defaults = panel["fieldConfig"]["defaults"]
        assert re.fullmatch(r"[A-Z0-9].*\.", panel["description"], re.DOTALL)
        assert defaults["unit"]
        assert defaults["thresholds"]["steps"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "$datasource"}
        assert all(target["legendFormat"] and target["datasource"] for target in panel["targets"])

    @pytest.mark.parametrize("board", BOARDS)
    def test_panels_neither_overlap_nor_leave_grid(self, board: str) -> None:
        """The check replaces collapsed rows by their panels."""
        for group in (BOARDS[board]["panels"], *(each.get("panels", []) for each in BOARDS[board]["panels"])):
            taken: set[tuple[int, int]] = set()
            for panel in group:
                place = panel["gridPos"]
                cells = {
                    (x, y)
                    for x in range(place["x"], place["x"] + place["w"])
                    for y in range(place["y"], place["y"] + place["h"])
                }
                assert not cells & taken, panel["title"]
                assert max(x for x, _ in cells) < 24, panel["title"]
                taken |= cells

    @pytest.mark.parametrize("board", BOARDS)
    def test_panels_have_unique_numbers(self, board: str) -> None:
        """Links to a panel name its number."""
        numbers = [panel["id"] for panel in panels(BOARDS[board])]
        assert len(set(numbers)) == len(numbers)

    def test_named_series_have_fixed_colors(self) -> None:
        """Every phase and activity; otherwise the palette colors a series by its position."""
        assert [*colors.PHASES] == [phase.value for phase in Phase]
        assert [*colors.ACTIVITIES] == [*ACTIVITIES]
        assert colors.STEP_TIME.keys() == set(get_args(StepPhase))
        for panel in (each for board in BOARDS.values() for each in panels(board)):
            if (legend := panel["targets"][0]["legendFormat"]) in ("{{phase}}", "{{activity}}"):
                fixed = {each["matcher"]["options"] for each in panel["fieldConfig"]["overrides"]}
                by_phase = colors.STEP_TIME if panel["title"] == "Step time breakdown" else colors.PHASES
                assert fixed == (colors.ACTIVITIES if legend == "{{activity}}" else by_phase).keys(), panel["title"]


class TestBoards:
    def test_three_boards_link_to_each_other(self) -> None:
        """The dashboards are linked by a common tag; links keep the selected variables and the time range."""
        assert [*BOARDS] == ["resnext-fleet", "resnext-operator", "resnext-training"]
        for name, board in BOARDS.items():
            assert (board["uid"], board["tags"]) == (name, ["resnext"])
            (link,) = board["links"]
            assert (link["type"], link["tags"], link["includeVars"], link["keepTime"]) == (
                *("dashboards", ["resnext"]),
                *(True, True),
            )

    def test_training_board_has_variables_and_annotations(self) -> None:
        """Attempts and checkpoints are marked at the times that are the values of their series."""
        board = BOARDS["resnext-training"]
        assert [each["name"] for each in board["templating"]["list"]] == ["datasource", "namespace", "training", "rank"]
        marks = {each["name"]: each for each in board["annotations"]["list"] if "expr" in each}
        assert marks.keys() == {"Attempt", "Checkpoint"}
        assert all(each["useValueForTime"] and each["expr"].startswith("1000 * ") for each in marks.values())
