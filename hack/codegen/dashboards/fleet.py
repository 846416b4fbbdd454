"""The dashboard of all trainings."""

from hack.codegen.dashboards.board import Board, Section, Variable
from hack.codegen.dashboards.colors import ACTIVITIES, PHASES
from hack.codegen.dashboards.panels import COUNT, IMAGES_PER_SECOND, Limits, Panel, Query, curves, value

_SOME = 'namespace=~"$namespace"'
_WINDOW = "[$__rate_interval]"
_WAITING = 'phase=~"Pending|Starting|Restarting"'


def board() -> Board:
    """By namespace."""
    return Board(
        uid="resnext-fleet",
        title="ResNeXt fleet",
        description="Phases, throughput, goodput, queueing and failures of all trainings, by namespace.",
        variables=(Variable("namespace", "resnext_training_status_phase", several=True),),
        sections=(
            Section("Trainings", _trainings()),
            Section("Throughput and goodput", _throughput()),
            Section("Queueing and failures", _failures()),
        ),
    )


def _count(selector: str, by: str = "") -> str:
    """The number of trainings; each is counted once, even during a change of leader."""
    each = f"max by (namespace, training, phase, reason) (resnext_training_status_phase{{{_SOME}{selector}}})"
    if not by:
        return f"count({each}) or vector(0)"
    # A zero without labels would have an empty legend.
    counted, label = f"count by ({by}) ({each})", by.partition(",")[0]
    return f'{counted} or label_replace(vector(0), "{label}", "none", "", "") unless on () {counted}'


def _trainings() -> list[Panel]:
    return [
        value("Running", "Trainings that complete steps.", COUNT, Query(_count(',phase="Running"'), "running")),
        value(
            "Waiting",
            "Trainings that are Pending, Starting or Restarting.",
            COUNT,
            Query(_count(f",{_WAITING}"), "waiting"),
            limits=Limits(1, 10),
        ),
        value(
            "Stalled",
            "Running trainings that complete no steps.",
            COUNT,
            Query(f"sum(max by (namespace, training) (resnext_training_stalled{{{_SOME}}})) or vector(0)", "stalled"),
            limits=Limits(1, 1),
        ),
        value("Succeeded", "Trainings that are complete.", COUNT, Query(_count(',phase="Succeeded"'), "succeeded")),
        value(
            "Failed",
            "Trainings that failed and still exist.",
            COUNT,
            Query(_count(',phase="Failed"'), "failed"),
            limits=Limits(1, 5),
        ),
        value(
            "Throughput",
            "Training images per second of all trainings.",
            IMAGES_PER_SECOND,
            Query(f"sum(namespace:resnext_trainer_images:rate5m{{{_SOME}}})", "throughput"),
            decimals=0,
        ),
        curves(
            "Trainings by phase",
            "Trainings in the selected namespaces.",
            COUNT,
            Query(_count("", "phase"), "{{phase}}"),
            stacked=True,
            width=12,
            colors=PHASES,
        ),
        curves(
            "Trainings by namespace",
            "Running and waiting trainings.",
            COUNT,
            Query(
                _count(',phase=~"Running|Pending|Starting|Restarting|Stopping"', "namespace"),
                "{{namespace}}",
            ),
            stacked=True,
            width=12,
        ),
    ]


def _throughput() -> list[Panel]:
    wall = f"max by (namespace, training, activity) (resnext_training_wall_seconds{{{_SOME}}})"
    return [
        curves(
            "Throughput by namespace",
            "Training images per second.",
            IMAGES_PER_SECOND,
            Query(f"namespace:resnext_trainer_images:rate5m{{{_SOME}}}", "{{namespace}}"),
            stacked=True,
        ),
        curves(
            "Throughput by training",
            "Training images per second of the ten fastest trainings.",
            IMAGES_PER_SECOND,
            Query(
                f"topk(10, namespace_training:resnext_trainer_images:rate5m{{{_SOME}}})", "{{namespace}}/{{training}}"
            ),
        ),
        curves(
            "Goodput by namespace",
            "Fraction of the wall time of all existing trainings that went into steps that were kept.",
            "percentunit",
            Query(f"namespace:resnext_training_goodput:ratio{{{_SOME}}}", "{{namespace}}"),
            limits=Limits(0.9, 0.6, below=True),
            maximum=1,
        ),
        curves(
            "Wall time by activity",
            "Fraction of the wall time of all existing trainings.",
            "percentunit",
            Query(f"sum by (activity) ({wall}) / ignoring (activity) group_left () sum({wall})", "{{activity}}"),
            stacked=True,
            maximum=1,
            colors=ACTIVITIES,
        ),
        curves(
            "Lowest goodput",
            "The ten trainings with the lowest goodput since their start.",
            "percentunit",
            Query(
                f"bottomk(10, max by (namespace, training) (resnext_training_goodput_ratio{{{_SOME}}}))",
                "{{namespace}}/{{training}}",
            ),
            limits=Limits(0.9, 0.6, below=True),
            maximum=1,
        ),
        curves(
            "Accuracy by training",
            "Top-1 accuracy of the last evaluation.",
            "percentunit",
            Query(
                f'topk(10, max by (namespace, training) (resnext_training_accuracy_ratio{{{_SOME},k="1"}}))',
                "{{namespace}}/{{training}}",
            ),
            maximum=1,
        ),
    ]


def _failures() -> list[Panel]:
    queued = f'max by (namespace, training) (resnext_training_wall_seconds{{{_SOME},activity="queueing"}})'
    first_step = "sum by (le) (resnext_operator_time_to_first_step_seconds_bucket)"
    return [
        curves(
            "Queueing time",
            "Mean time for which a training waited for its pods, by namespace.",
            "s",
            Query(f"avg by (namespace) ({queued})", "{{namespace}}"),
        ),
        curves(
            "Time to the first step",
            "From the creation of a training to its first step, since the start of the operator, in all namespaces.",
            "s",
            Query(f"histogram_quantile(0.5, {first_step})", "p50"),
            Query(f"histogram_quantile(0.95, {first_step})", "p95"),
        ),
        curves(
            "Finished attempts by cause",
            "Attempts that ended in the last hour, in all namespaces.",
            COUNT,
            Query("sum by (cause) (increase(resnext_operator_attempts_finished_total[1h]))", "{{cause}}"),
            stacked=True,
        ),
        curves(
            "Failures by namespace",
            "Failures of all existing trainings that count toward their backoffLimit.",
            COUNT,
            Query(
                f"sum by (namespace) (max by (namespace, training) (resnext_training_failures{{{_SOME}}}))",
                "{{namespace}}",
            ),
        ),
        curves(
            "Disruptions by namespace",
            "Attempts of all existing trainings that ended because a pod was evicted, preempted or deleted.",
            COUNT,
            Query(
                f"sum by (namespace) (max by (namespace, training) (resnext_training_disruptions{{{_SOME}}}))",
                "{{namespace}}",
            ),
        ),
        curves(
            "Failed trainings by reason",
            "Trainings that failed and still exist.",
            COUNT,
            Query(_count(',phase="Failed"', "namespace, reason"), "{{namespace}} {{reason}}"),
            stacked=True,
        ),
    ]
