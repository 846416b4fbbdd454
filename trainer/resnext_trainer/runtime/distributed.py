"""Communication between ranks. The only module that imports Horovod; a single process does not need it."""

import ctypes
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import tensorflow as tf

from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime import cpu_binding, cpus, environment, malloc
from resnext_trainer.text import counted

T = TypeVar("T")


class Communicator(Protocol):
    """Collective operations. Every rank must make the same calls in the same order."""

    rank: int
    size: int
    local_rank: int
    """Rank within this machine; the index of the GPU to use."""
    local_size: int
    """Number of ranks on this machine."""

    def average(self, tensors: Sequence[Any], *, compress: bool = False) -> list[Any]:
        """Mean of each tensor over the ranks, sent as float16 if `compress`; can be used in a graph."""

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Assigns the values of rank 0 on every rank."""

    def gather(self, value: Any) -> list[Any]:
        """Returns the values of all ranks, in rank order."""


class SingleProcess:
    """Communicator of a training with one process."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def average(self, tensors: Sequence[Any], *, compress: bool = False) -> list[Any]:  # noqa: ARG002
        return list(tensors)

    def broadcast(self, variables: Sequence[Any]) -> None: ...

    def gather(self, value: Any) -> list[Any]:
        return [value]


class Horovod:
    """Communicator of ranks started by mpirun or horovodrun."""

    def __init__(self) -> None:
        environment.enable_keras()
        import horovod.tensorflow as hvd

        hvd.init()
        self._hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()

    def average(self, tensors: Sequence[Any], *, compress: bool = False) -> list[Any]:
        compression = self._hvd.Compression.fp16 if compress else self._hvd.Compression.none
        return list(self._hvd.grouped_allreduce(list(tensors), op=self._hvd.Average, compression=compression))

    def broadcast(self, variables: Sequence[Any]) -> None:
        # Explicit names, because Horovod derives its names from the variables', which need not be unique.
        for number, variable in enumerate(variables):
            variable.assign(self._hvd.broadcast(variable, root_rank=0, name=f"state{number}"))

    def gather(self, value: Any) -> list[Any]:
        return list(self._hvd.allgather_object(value))


def initialize() -> Communicator:
    """Connects to the other ranks if mpirun or horovodrun started this process. Raises TrainingError."""
    started_by = ("OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE")
    if not any(name in os.environ for name in started_by):
        return SingleProcess()
    environment.set_horovod_defaults(gpus=bool(tf.config.list_physical_devices("GPU")))
    try:
        return Horovod()
    except ImportError as error:
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION,
            f"training with several ranks requires Horovod, which cannot be imported: {error}: install it with "
            "`python3 hack/devenv wheels`, or start a single rank",
        ) from None


def run_collectively(communicator: Communicator, act: Callable[[], T]) -> T:
    """Calls `act` on every rank and returns its result; if any rank raises TrainingError, all ranks raise the first.

    The error names that rank as the cause, unless all ranks failed.
    """
    result: T | None = None
    mine: tuple[ExitStatus, str] | None = None
    try:
        result = act()
    except TrainingError as error:
        mine = (error.verdict, error.message)
    outcomes = communicator.gather(mine)
    errors = [(rank, error) for rank, error in enumerate(outcomes) if error is not None]
    if errors:
        rank, (verdict, message) = errors[0]
        raise TrainingError(verdict, message, collective=True, rank=rank if len(errors) < len(outcomes) else None)
    return result  # type: ignore[return-value]  # set, because no rank failed


def pin_device(communicator: Communicator, device: str) -> str:
    """Pins this rank to its GPU, or hides all GPUs; returns gpu or cpu.

    Raises TrainingError if `device` is gpu and no GPU is usable: there is no fallback to the CPU.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if device == "cpu" or (device == "auto" and not gpus):
        tf.config.set_visible_devices([], "GPU")
        malloc.retain_freed_memory()
        _limit_threads()
        return "cpu"
    if not gpus:
        raise _no_gpu(f"rank {communicator.rank}: {_why_no_gpu()}")
    if communicator.local_rank >= len(gpus):
        raise _no_gpu(
            f"rank {communicator.rank} needs GPU {communicator.local_rank}, but TensorFlow finds only "
            f"{counted(len(gpus), 'GPU')}, numbered from 0: start at most one rank per GPU"
        )
    _limit_threads()
    # Before TensorFlow starts its threads, which inherit the binding.
    cpu_binding.bind_to_gpu(communicator.local_rank, communicator.local_size, len(gpus))
    try:
        tf.config.set_visible_devices(gpus[communicator.local_rank], "GPU")
        tf.config.experimental.set_memory_growth(gpus[communicator.local_rank], True)
        with tf.device("/GPU:0"):
            tf.reduce_sum(tf.ones([8])).numpy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise _no_gpu(f"rank {communicator.rank}: {error}") from None
    return "gpu"


def _limit_threads() -> None:
    """Divides the CPUs of the pod among its ranks; by default, each rank starts one thread per CPU of the node.

    TF_NUM_INTRAOP_THREADS and TF_NUM_INTEROP_THREADS take precedence.
    """
    threading = tf.config.threading
    # Raises RuntimeError after the first operation; such a caller keeps its threads.
    with suppress(RuntimeError):
        if "TF_NUM_INTRAOP_THREADS" not in os.environ:
            threading.set_intra_op_parallelism_threads(cpus.per_rank())
        if "TF_NUM_INTEROP_THREADS" not in os.environ:
            # At least two, so that a collective that waits for other ranks does not block everything else.
            threading.set_inter_op_parallelism_threads(max(2, cpus.per_rank()))


_DRIVER_FILES = ("libcuda.so.1", "libnvidia-ml.so.1")
"""Driver libraries that TensorFlow loads. If one is missing, TensorFlow registers no GPU and logs nothing."""


def _why_no_gpu() -> str:
    """The most specific reason why TensorFlow registers no GPU."""
    if not tf.test.is_built_with_cuda():
        return "TensorFlow is built without CUDA: use the trainer's CUDA image, or set device to cpu"
    missing = [name for name in _DRIVER_FILES if not _loads(name)]
    if missing:
        return (
            f"{' and '.join(missing)} of the NVIDIA driver cannot be loaded: run on a node with the NVIDIA driver and "
            "container toolkit, and set workers.runtimeClassName if the NVIDIA runtime is not the default"
        )
    return (
        "TensorFlow registered no GPU, although the libraries of the NVIDIA driver load: set the environment variable "
        "TF_CPP_VMODULE=dso_loader=1 to log which CUDA library is missing"
    )


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _no_gpu(why: str) -> TrainingError:
    return TrainingError(ExitStatus.GPU_UNAVAILABLE, f"no GPU is usable: {why}")
