"""Runs a training from the start or its newest checkpoint until it completes, is stopped, or fails."""

import os
import socket
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass

from resnext_trainer.checkpoint import directory
from resnext_trainer.checkpoint.manager import CheckpointManager
from resnext_trainer.checkpoint.resumption import Resumption
from resnext_trainer.config.models import Training
from resnext_trainer.contract import ExitStatus, TerminationReport
from resnext_trainer.data import class_names, fingerprint, read_count
from resnext_trainer.data.input_pipeline import InputPipeline, open_for_ranks
from resnext_trainer.errors import TrainingError
from resnext_trainer.model.train_state import TrainState
from resnext_trainer.runtime import cpu_binding, cpus, distributed, environment, watchdog
from resnext_trainer.runtime.bring_up import Runtime, bring_up, enable_determinism
from resnext_trainer.runtime.distributed import Communicator
from resnext_trainer.runtime.signals import Requests
from resnext_trainer.runtime.telemetry import Telemetry
from resnext_trainer.training.bad_record_monitor import BadRecordMonitor
from resnext_trainer.training.checkpoint_saver import CheckpointSaver
from resnext_trainer.training.epoch_plan import plan_epochs
from resnext_trainer.training.overlapped_steps import OverlappedSteps
from resnext_trainer.training.profiler import Profiler
from resnext_trainer.training.progress_reporter import ProgressReporter
from resnext_trainer.training.rollback import Rollback
from resnext_trainer.training.run_log import SCALARS, RunLog
from resnext_trainer.training.run_recorder import RunRecorder
from resnext_trainer.training.step_runner import StepRunner
from resnext_trainer.training.throughput import PhaseFractions
from resnext_trainer.training.trainer import Trainer
from resnext_trainer.training.validator import Validator


@dataclass(frozen=True)
class _Opened:
    """Resources opened before the training starts."""

    source: InputPipeline
    run: Resumption | None
    """The run to resume or start; None on all ranks but 0."""


def run(
    config: Training,
    *,
    attempt: int,
    workers: int | None,
    world: int | None,
    telemetry: Telemetry,
    requests: Requests,
) -> TerminationReport:
    """Trains until the end or until any rank gets a stop request; all ranks return the same result at the same time.

    workers, world: expected number of worker pods and ranks; None accepts any. Raises TrainingError.
    """
    with ExitStack() as locks:

        def open_together(communicator: Communicator, config: Training) -> tuple[Training, _Opened]:
            watchdog.exchange_peer_urls(telemetry.heartbeat, telemetry.server.port, communicator)
            distributed.run_collectively(communicator, lambda: _check_world(communicator, workers, world))
            distributed.run_collectively(communicator, lambda: _prepare_checkpoints(config, communicator))
            run = None
            if communicator.rank == 0:
                run = locks.enter_context(closing(Resumption(config, attempt, telemetry.console.note)))
            settled, source = _resumed(config, communicator, run)
            return settled, _Opened(source, run)

        with bring_up(lambda: config, open_together) as runtime:
            if runtime.config.deterministic:
                enable_determinism(runtime.config.seed)
            trainer = _trainer(runtime, attempt, telemetry, requests)
            verdict, message = trainer.fit()
            telemetry.heartbeat.beat("ending")
        return TerminationReport(verdict=verdict.name.lower(), message=message, progress=trainer.progress())


def _trainer(runtime: Runtime[_Opened], attempt: int, telemetry: Telemetry, requests: Requests) -> Trainer:
    """Creates the trainer and its parts."""
    config, communicator, source, run = runtime.config, runtime.communicator, runtime.opened.source, runtime.opened.run
    metrics, console, heartbeat, phases = (
        telemetry.metrics,
        telemetry.console,
        telemetry.heartbeat,
        telemetry.phases,
    )
    plan = plan_epochs(config, source.training_images, communicator.size)
    state = TrainState(config, config.device)

    def log_failed(error: Exception) -> None:
        metrics.log_write_failed()
        console.note(f"cannot write the log of the run: {error}")

    log = RunLog(run.folder, log_failed) if run else None
    recorder = RunRecorder(log, plan, PhaseFractions(phases))
    profiler = Profiler(requests.profile, config.profile_steps, run.folder / SCALARS, console.note) if run else None
    checkpoints = CheckpointManager(config, attempt, communicator, state, metrics, console, phases, run)
    metrics.info(
        architecture=config.model.architecture,
        precision=config.precision.mode,
        xla=str(config.xla).lower(),
        pipeline=source.name,
        device=config.device,
        world_size=str(communicator.size),
    )
    metrics.watch_reads(lambda: read_count.total(dataset.reads for dataset in source.examples.values()))
    if config.device == "gpu":
        metrics.watch_gpu(communicator.local_rank)
    console.note(
        f"{config.model.architecture} ({state.model.count():,} weights) on {communicator.size} x {config.device}, "
        f"{config.precision.mode}, {source.name}: {source.training_images:,} images, "
        f"{plan.steps} steps of {plan.global_batch} images per epoch, {config.epochs} epochs"
    )
    variables = " ".join(f"{name}={value}" for name, value in environment.variables_for_speed().items())
    allowed = cpu_binding.described()
    console.note(f"{cpus.per_rank()} CPUs per rank; rank 0 may run on CPUs {allowed}; environment: {variables}")
    overlapped = OverlappedSteps(config, plan, communicator, state, phases)
    steps = StepRunner(config, plan, overlapped, metrics, heartbeat, profiler)
    saver = CheckpointSaver(config.checkpoint, communicator, state, checkpoints, heartbeat, console, requests)
    return Trainer(
        config=config,
        communicator=communicator,
        source=source,
        plan=plan,
        state=state,
        steps=steps,
        validator=Validator(source, communicator, state, recorder, metrics, console, heartbeat, phases),
        checkpoints=checkpoints,
        saver=saver,
        rollback=Rollback(config.max_rollbacks, state, checkpoints, steps, saver, recorder, metrics, console),
        bad_records=BadRecordMonitor(source, communicator, metrics, limited=config.data.max_bad_record_fraction > 0),
        recorder=recorder,
        reporter=ProgressReporter(attempt, config.checkpoint, plan, steps, checkpoints, heartbeat, metrics, console),
        metrics=metrics,
        phases=phases,
        console=console,
        requests=requests,
    )


def _resumed(
    config: Training, communicator: Communicator, resumption: Resumption | None
) -> tuple[Training, InputPipeline]:
    """Effective settings of the run, decided by rank 0, and its dataset."""
    opened = _from_rank_0(communicator, lambda: resumption.select() if resumption else config)
    source = open_for_ranks(communicator, opened)

    def settle() -> Training:
        if not resumption:
            return config
        dataset = fingerprint.of(opened.data.format, source.examples, source.training_images)
        return resumption.settle(dataset, class_names.names(opened))

    settled = _from_rank_0(communicator, settle)
    if settled != opened:
        source = open_for_ranks(communicator, settled)
    return settled, source


def _from_rank_0(communicator: Communicator, decide: Callable[[], Training]) -> Training:
    """Result of `decide` on rank 0; a TrainingError names no rank, because rank 0 decides for all."""
    try:
        decided: Training = communicator.gather(distributed.run_collectively(communicator, decide))[0]
    except TrainingError as error:
        raise TrainingError(error.verdict, error.message, collective=True) from None
    return decided


def _prepare_checkpoints(config: Training, communicator: Communicator) -> None:
    """Checks the checkpoint directory before the first step, on the rank that writes to it."""
    if communicator.rank == 0:
        directory.prepare(config.checkpoint.path, os.environ)


def _check_world(communicator: Communicator, workers: int | None, world: int | None) -> None:
    if world is not None and communicator.size != world:
        raise TrainingError(
            ExitStatus.WORLD_SIZE_MISMATCH,
            f"{communicator.size} ranks started, but --world-size is {world}: start mpirun with -np {world}, or change "
            "--world-size",
        )
    hosts = sorted(set(communicator.gather(socket.gethostname())))
    if workers is not None and len(hosts) != workers:
        raise TrainingError(
            ExitStatus.WORLD_SIZE_MISMATCH,
            f"the {communicator.size} ranks started in {len(hosts)} pods ({', '.join(hosts)}), "
            f"but --num-workers is {workers}: list {workers} hosts for mpirun, or change --num-workers",
        )
