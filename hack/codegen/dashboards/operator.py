"""The dashboard of the operator."""

from hack.codegen.dashboards.board import Board, Section, Variable
from hack.codegen.dashboards.colors import PHASES
from hack.codegen.dashboards.panels import COUNT, Limits, Panel, Query, curves, value

_ONE = 'namespace="$namespace"'
_WINDOW = "[$__rate_interval]"
_LEADER = 'leader_election_master_status{namespace="$namespace",name="resnext-operator"}'


def board() -> Board:
    """Of the operator in one namespace."""
    return Board(
        uid="resnext-operator",
        title="ResNeXt operator",
        description="Reconciliations, work queue, requests to the API server, errors and leader of the operator.",
        variables=(Variable("namespace", 'leader_election_master_status{name="resnext-operator"}'),),
        sections=(
            Section("Overview", _overview()),
            Section("Reconciliations", _reconciliations()),
            Section("API server", _api_server()),
            Section("Process", _process()),
        ),
    )


def _rate(name: str, by: str = "") -> str:
    total = f"(rate(resnext_operator_{name}{{{_ONE}}}{_WINDOW}))"
    return f"sum by ({by}) {total}" if by else f"sum {total}"


_FAILED_REQUESTS = (
    f'sum(rate(resnext_operator_api_requests_total{{{_ONE},code=~"5..|429|401|none"}}{_WINDOW})) or vector(0)'
)


def _overview() -> list[Panel]:
    return [
        value(
            "Leaders",
            "Replicas that are the leader; exactly one is expected.",
            COUNT,
            Query(f"sum({_LEADER})", "leaders"),
            limits=Limits(1, 1, below=True),
            width=6,
        ),
        value("Replicas", "Replicas that Prometheus scrapes.", COUNT, Query(f"count({_LEADER})", "replicas"), width=6),
        value(
            "Trainings",
            "Trainings that this operator manages.",
            COUNT,
            Query(f"sum(resnext_operator_trainings{{{_ONE}}})", "trainings"),
            width=6,
        ),
        value(
            "Failed reconciliations",
            "Fraction of the reconciliations that fail.",
            "percentunit",
            Query(f"{_rate('reconcile_errors_total')} / {_rate('reconcile_duration_seconds_count')}", "failed"),
            limits=Limits(0.01, 0.1),
            width=6,
        ),
    ]


def _reconciliations() -> list[Panel]:
    duration = _rate("reconcile_duration_seconds_bucket", "le")
    return [
        curves(
            "Reconciliations",
            "Reconciliations per second.",
            "ops",
            Query(_rate("reconcile_duration_seconds_count"), "all"),
            Query(_rate("reconcile_errors_total"), "failed"),
        ),
        curves(
            "Reconcile duration",
            "Duration of one reconciliation, including its requests to the API server.",
            "s",
            Query(f"histogram_quantile(0.5, {duration})", "p50"),
            Query(f"histogram_quantile(0.99, {duration})", "p99"),
            limits=Limits(1, 5),
        ),
        curves(
            "Work queue depth",
            "Trainings that wait for reconciliation. A queue that grows means that the operator is too slow.",
            COUNT,
            Query(f'sum(workqueue_depth{{{_ONE},name="resnexttraining"}})', "waiting"),
            limits=Limits(50, 500),
        ),
        curves(
            "Reconcile errors",
            "Reconciliations that failed, since the start of the operator.",
            COUNT,
            Query(f"sum(resnext_operator_reconcile_errors_total{{{_ONE}}})", "failed"),
        ),
        curves(
            "Skipped objects",
            "Objects that could not be handled and were skipped, by loop, since the start of the operator.",
            COUNT,
            Query(f"sum by (loop) (resnext_operator_skipped_objects_total{{{_ONE}}})", "{{loop}}"),
        ),
        curves(
            "Trainings by phase",
            "Trainings that this operator manages.",
            COUNT,
            Query(f"sum by (phase) (resnext_operator_trainings{{{_ONE}}})", "{{phase}}"),
            stacked=True,
            colors=PHASES,
        ),
    ]


def _api_server() -> list[Panel]:
    return [
        curves(
            "API requests",
            "Requests to the API server per second, by verb and status code. The code is none without a response.",
            "reqps",
            Query(_rate("api_requests_total", "verb, code"), "{{verb}} {{code}}"),
            width=12,
        ),
        curves(
            "Failed API requests",
            "Fraction of the requests with a server error, throttling, an invalid token, or without a response.",
            "percentunit",
            Query(f"({_FAILED_REQUESTS}) / {_rate('api_requests_total')}", "failed"),
            limits=Limits(0.01, 0.1),
            width=12,
        ),
    ]


def _process() -> list[Panel]:
    pods = f"on (job, instance) {_LEADER}"
    return [
        curves(
            "Leader",
            "1 for the replica that is the leader.",
            COUNT,
            Query(_LEADER, "{{pod}}"),
            maximum=1,
        ),
        curves(
            "CPU",
            "CPU time per second of each replica.",
            "suffix:cores",
            Query(f"rate(process_cpu_seconds_total{_WINDOW}) and {pods}", "{{pod}}"),
            limits=Limits(0.5, 1),
        ),
        curves(
            "Memory",
            "Resident memory of each replica.",
            "bytes",
            Query(f"process_resident_memory_bytes and {pods}", "{{pod}}"),
        ),
    ]
