"""The dashboard of one training."""

from hack.codegen.dashboards.board import Board, Section, TimestampAnnotation, Variable
from hack.codegen.dashboards.colors import ACTIVITIES, STEP_TIME
from hack.codegen.dashboards.panels import COUNT, IMAGES_PER_SECOND, Limits, Panel, Query, curves, value

_ALL = 'namespace="$namespace",training="$training"'
_RANKS = f'{_ALL},rank=~"$rank"'
_WINDOW = "[$__rate_interval]"


def board() -> Board:
    """From the overview to the details."""
    return Board(
        uid="resnext-training",
        title="ResNeXt training",
        description="Throughput, accuracy, step time, goodput, GPUs and checkpoints of one training.",
        variables=(
            Variable("namespace", "resnext_training_status_phase"),
            Variable("training", 'resnext_training_status_phase{namespace="$namespace"}'),
            Variable("rank", f"resnext_trainer_info{{{_ALL}}}", several=True),
        ),
        annotations=(
            TimestampAnnotation(
                "Attempt",
                f"max(resnext_training_attempt_start_timestamp_seconds{{{_ALL}}})",
                "blue",
                "start of an attempt",
            ),
            TimestampAnnotation(
                "Checkpoint",
                f"max(resnext_training_checkpoint_timestamp_seconds{{{_ALL}}})",
                "green",
                "checkpoint saved",
            ),
        ),
        sections=(
            Section("Overview", _overview()),
            Section("Throughput", _throughput()),
            Section("Learning", _learning()),
            Section("Goodput", _goodput()),
            Section("GPUs", _gpus(), collapsed=True),
            Section("Health", _health()),
        ),
    )


def _reported(name: str) -> str:
    """A value from the operator; `max`, because a new leader's series overlaps with that of the old one."""
    return f"max(resnext_training_{name}{{{_ALL}}})"


def _increase(name: str) -> str:
    """A counter of the ranks since their start."""
    return f"resnext_trainer_{name}{{{_RANKS}}}"


def _overview() -> list[Panel]:
    phase = f"max by (phase, reason) (resnext_training_status_phase{{{_ALL}}})"
    accuracy = f'max(resnext_training_accuracy_ratio{{{_ALL},k="1"}})'
    return [
        value("Phase", "Phase and reason.", "none", Query(phase, "{{phase}} ({{reason}})"), width=6, shows="name"),
        value(
            "Throughput",
            "Training images per second over all ranks. Absent while no steps complete.",
            IMAGES_PER_SECOND,
            Query(_reported("images_per_second"), "throughput"),
            width=3,
            decimals=0,
        ),
        value(
            "Progress",
            "Completed steps as a fraction of all steps.",
            "percentunit",
            Query(f"{_reported('steps_completed')} / {_reported('steps')}", "steps"),
            width=3,
        ),
        value(
            "Remaining",
            "Estimated remaining time at the throughput of this attempt. Absent while no steps complete.",
            "s",
            Query(f"{_reported('estimated_completion_timestamp_seconds')} - time()", "remaining"),
            width=3,
        ),
        value("Top-1", "Top-1 accuracy of the last evaluation.", "percentunit", Query(accuracy, "top-1"), width=3),
        value(
            "Goodput",
            "Fraction of the wall time that went into steps that were kept.",
            "percentunit",
            Query(_reported("goodput_ratio"), "goodput"),
            limits=Limits(0.9, 0.6, below=True),
            width=3,
        ),
        value(
            "Attempts",
            "Attempts, including the current one. Each additional attempt repeats steps and the start-up.",
            COUNT,
            Query(_reported("attempts"), "attempts"),
            limits=Limits(3, 6),
            width=3,
        ),
    ]


def _throughput() -> list[Panel]:
    images = f"rate(resnext_trainer_images_total{{{_ALL}}}{_WINDOW})"
    of_ranks = f"rate(resnext_trainer_images_total{{{_RANKS}}}{_WINDOW})"
    phases = f"rate(resnext_trainer_phase_seconds_total{{{_RANKS}}}{_WINDOW})"
    duration = f"sum by (le) (rate(resnext_trainer_step_duration_seconds_bucket{{{_ALL}}}{_WINDOW}))"
    straggler = f"namespace_training_rank:resnext_trainer_straggler:ratio_rate5m{{{_RANKS}}}"
    last_step = f"time() - max(resnext_trainer_last_step_timestamp_seconds{{{_ALL}}})"
    return [
        curves(
            "Total throughput",
            "Training images per second over all ranks; evaluations and checkpoints reduce it.",
            IMAGES_PER_SECOND,
            Query(f"sum({images})", "all ranks"),
        ),
        curves(
            "Throughput per rank",
            "Training images per second of each rank. Ranks are synchronous, so the curves coincide unless one fails.",
            IMAGES_PER_SECOND,
            Query(f"sum by (rank) ({of_ranks})", "rank {{rank}}"),
        ),
        curves(
            "Throughput per GPU",
            "Mean over the ranks, each of which uses one GPU, or its share of the CPUs of its pod.",
            IMAGES_PER_SECOND,
            Query(f"sum({images}) / count(count by (rank) (resnext_trainer_info{{{_ALL}}}))", "mean"),
        ),
        curves(
            "Step time breakdown",
            "Fraction of the main thread's time per phase, mean over the ranks. compute, allreduce and "
            "optimizer are estimated from every 50th step, which is measured part by part.",
            "percentunit",
            Query(f"avg by (phase) (sum by (rank, phase) ({phases}))", "{{phase}}"),
            stacked=True,
            maximum=1,
            colors=STEP_TIME,
        ),
        curves(
            "Step duration",
            "Time from the end of one step to the end of the next, over all ranks.",
            "s",
            Query(f"histogram_quantile(0.5, {duration})", "p50"),
            Query(f"histogram_quantile(0.99, {duration})", "p99"),
        ),
        curves(
            "Straggler",
            "Time of each rank for input and computation, relative to the median rank. All ranks wait for the slowest.",
            "none",
            Query(straggler, "rank {{rank}}"),
            limits=Limits(1.2, 2),
        ),
        curves(
            "Time since the last step",
            "Grows during evaluations, checkpoints and stalls.",
            "s",
            Query(last_step, "last step"),
        ),
        curves(
            "Steps per second",
            "Steps of the training. Ranks are synchronous, so every rank completes the same steps.",
            "suffix:steps/s",
            Query(f"max(rate(resnext_trainer_steps_total{{{_ALL}}}{_WINDOW}))", "steps"),
        ),
        value(
            "Configuration",
            "Model, precision, input pipeline and number of ranks.",
            "none",
            Query(
                f'resnext_trainer_info{{{_ALL},rank="0"}}',
                "{{architecture}}, {{precision}}, XLA {{xla}}, {{pipeline}}, {{world_size}} x {{device}}",
            ),
            width=8,
            height=8,
            shows="name",
        ),
    ]


def _learning() -> list[Panel]:
    rank_0 = f'{{{_ALL},rank="0"}}'
    return [
        curves(
            "Loss",
            "Training loss, averaged over 10 seconds, as rank 0 and the operator's status show it.",
            "none",
            Query(f"resnext_trainer_loss{rank_0}", "rank 0"),
            Query(_reported("loss"), "status"),
            from_zero=False,
        ),
        curves(
            "Accuracy",
            "Accuracy of each evaluation on the validation set, and the best top-1.",
            "percentunit",
            Query(f"max by (k) (resnext_trainer_eval_accuracy_ratio{rank_0})", "top-{{k}}"),
            Query(_reported("best_accuracy_ratio"), "best top-1"),
            maximum=1,
        ),
        curves(
            "Epoch",
            "Completed epochs, according to rank 0 and to the operator's status, and the total number of epochs.",
            "none",
            Query(f"max(resnext_trainer_epoch{{{_ALL}}})", "rank 0"),
            Query(_reported("epochs_completed"), "status"),
            Query(_reported("epochs"), "all"),
        ),
        curves(
            "Learning rate",
            "Learning rate of the last step.",
            "none",
            Query(f"resnext_trainer_learning_rate{rank_0}", "learning rate"),
            width=12,
        ),
        curves(
            "Loss scale",
            "Dynamic loss scale in fp16; 1 in other precisions. It starts at 32768 and halves after an overflow.",
            "none",
            Query(f"resnext_trainer_loss_scale{rank_0}", "loss scale"),
            width=12,
        ),
    ]


def _goodput() -> list[Panel]:
    wall = f"max by (activity) (resnext_training_wall_seconds{{{_ALL}}})"
    return [
        curves(
            "Goodput",
            "Fraction of the wall time that went into steps that were kept: since the start, and in the last hour. A "
            "training that is younger than an hour counts from its start.",
            "percentunit",
            Query(_reported("goodput_ratio"), "since the start"),
            Query(f"max(namespace_training:resnext_training_goodput:ratio1h{{{_ALL}}})", "last hour"),
            limits=Limits(0.9, 0.6, below=True),
            maximum=1,
            width=12,
        ),
        curves(
            "Wall time by activity",
            "Seconds since the start of the training. All activities except steps reduce the goodput.",
            "s",
            Query(wall, "{{activity}}"),
            stacked=True,
            width=12,
            colors=ACTIVITIES,
        ),
    ]


def _dcgm(metric: str) -> str:
    """A series of the DCGM exporter for each GPU of this training's pods.

    The exporter names the pod that uses a GPU in the label `pod`. Where Prometheus attaches the exporter's own pod
    under that name, it renames the label to `exported_pod`.
    """
    pods = f"max by (namespace, pod) (resnext_trainer_info{{{_ALL}}})"
    named = metric
    for label in ("pod", "namespace"):
        named = f'label_replace({named}, "{label}", "$1", "exported_{label}", "(.+)")'
    return f"max by (pod, gpu) ({named} * on (namespace, pod) group_left () {pods})"


def _gpus() -> list[Panel]:
    legend = "{{pod}} GPU {{gpu}}"
    memory = f"{_dcgm('DCGM_FI_DEV_FB_USED')} / ({_dcgm('DCGM_FI_DEV_FB_USED')} + {_dcgm('DCGM_FI_DEV_FB_FREE')})"
    return [
        curves(
            "GPU utilization",
            "Fraction of the time in which a kernel ran. 100 % does not mean that the GPU works at its full speed.",
            "percent",
            Query(_dcgm("DCGM_FI_DEV_GPU_UTIL"), legend),
            limits=Limits(80, 50, below=True),
            maximum=100,
        ),
        curves(
            "Tensor cores active",
            "Fraction of the cycles in which the tensor cores are active; it limits the throughput in fp16 and bf16.",
            "percentunit",
            Query(_dcgm("DCGM_FI_PROF_PIPE_TENSOR_ACTIVE"), legend),
            maximum=1,
        ),
        curves(
            "GPU memory",
            "Fraction of the memory in use. TensorFlow allocates memory as it needs it.",
            "percentunit",
            Query(memory, legend),
            maximum=1,
        ),
        curves(
            "GPU power",
            "Power draw.",
            "watt",
            Query(_dcgm("DCGM_FI_DEV_POWER_USAGE"), legend),
        ),
        curves(
            "GPU temperature",
            "Temperature of the GPU, which lowers its clock when the temperature reaches its limit.",
            "celsius",
            Query(_dcgm("DCGM_FI_DEV_GPU_TEMP"), legend),
            limits=Limits(80, 90),
        ),
        curves(
            "GPU utilization per rank",
            "GPU utilization, measured by the ranks through NVML without the exporter.",
            "percentunit",
            Query(f"resnext_trainer_gpu_utilization_ratio{{{_RANKS}}}", "rank {{rank}}"),
            maximum=1,
        ),
        curves(
            "GPU memory per rank",
            "Used fraction of the memory, as the ranks measure it through NVML.",
            "percentunit",
            Query(
                f"resnext_trainer_gpu_memory_used_bytes{{{_RANKS}}} / resnext_trainer_gpu_memory_bytes{{{_RANKS}}}",
                "rank {{rank}}",
            ),
            maximum=1,
            width=12,
        ),
        curves(
            "GPU errors",
            "Code of the last XID error; 0 without an error. NVIDIA documents the codes.",
            COUNT,
            Query(_dcgm("DCGM_FI_DEV_XID_ERRORS"), legend),
            limits=Limits(1, 1),
            width=12,
        ),
    ]


def _health() -> list[Panel]:
    rank_0 = f'{{{_ALL},rank="0"}}'
    read = f"sum by (rank) (rate(resnext_trainer_read_bytes_total{{{_RANKS}}}{_WINDOW}))"
    requests, size = (
        f"rate(resnext_trainer_data_read_{name}_total{{{_RANKS}}}{_WINDOW})" for name in ("requests", "bytes")
    )
    return [
        curves(
            "Non-finite steps",
            "Steps without an update: overflows are normal in fp16, nan is not.",
            COUNT,
            Query(f"max by (cause) ({_increase('nonfinite_steps_total')})", "{{cause}}"),
        ),
        curves(
            "Rollbacks",
            "Rollbacks to a checkpoint since the start of the attempt.",
            COUNT,
            Query(f"resnext_trainer_rollbacks_total{rank_0}", "rollbacks"),
            limits=Limits(1, 2),
        ),
        curves(
            "Bad records",
            "Records that were skipped because they cannot be decoded, since the start of the attempt.",
            COUNT,
            Query(f"sum by (rank) ({_increase('bad_records_total')})", "rank {{rank}}"),
        ),
        curves(
            "Failed writes",
            "Checkpoints and log records that could not be written, since the start of the attempt.",
            COUNT,
            Query(f"resnext_trainer_checkpoint_failures_total{rank_0}", "checkpoints"),
            Query(f"resnext_trainer_log_write_failures_total{rank_0}", "log"),
            limits=Limits(1, 3),
        ),
        curves(
            "Time since the last checkpoint",
            "Steps since then are repeated after a failure. The series `this attempt` does not include checkpoints of "
            "earlier attempts; `interval` is the longest expected time between two checkpoints.",
            "s",
            Query(f"time() - {_reported('checkpoint_timestamp_seconds')}", "training"),
            Query(
                f"time() - resnext_trainer_checkpoint_last_success_timestamp_seconds{rank_0}",
                "this attempt",
            ),
            Query(f"max(resnext_trainer_checkpoint_interval_seconds{{{_ALL}}})", "interval"),
        ),
        curves(
            "Bytes read",
            "Bytes that each rank reads from files per second, including those from the page cache.",
            "Bps",
            Query(read, "rank {{rank}}"),
        ),
        curves(
            "Host memory",
            "Resident memory of each rank. The kernel kills a rank if its pod exceeds the memory limit.",
            "bytes",
            Query(f"sum by (rank) (resnext_trainer_resident_memory_bytes{{{_RANKS}}})", "rank {{rank}}"),
            width=12,
        ),
        curves(
            "Open files",
            "Open file descriptors of each rank.",
            COUNT,
            Query(f"sum by (rank) (resnext_trainer_open_files{{{_RANKS}}})", "rank {{rank}}"),
            width=12,
        ),
        curves(
            "Data requests",
            "Reads of images, or of blocks of them, per second by each rank.",
            "reqps",
            Query(f"sum by (rank) ({requests})", "rank {{rank}}"),
            width=12,
        ),
        curves(
            "Bytes per data request",
            "Mean size of a read of images or blocks: about 110 kB in random order and 3.5 MB in blocks (ImageNet).",
            "bytes",
            Query(f"sum by (rank) ({size}) / sum by (rank) ({requests})", "rank {{rank}}"),
            width=12,
        ),
    ]
