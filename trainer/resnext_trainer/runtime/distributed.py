"""The ranks of a training. The only module that imports Horovod; one process alone needs none."""

import ctypes
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import tensorflow as tf

from resnext_trainer.contract import ExitStatus
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime import environment, malloc

T = TypeVar("T")


class Communicator(Protocol):
    """What ranks do together; each call is made by all of them, in the same order."""

    rank: int
    size: int
    local_rank: int
    """The place on this machine, which is the number of the GPU to take."""
    local_size: int
    """Ranks on this machine."""

    def average(self, tensors: Sequence[Any], *, compress: bool = False) -> list[Any]:
        """Each tensor's mean over the ranks, on the wire in float16 if `compress`; may be used in a graph."""

    def broadcast(self, variables: Sequence[Any]) -> None:
        """Gives every rank the values that rank 0 has."""

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank."""


class SingleProcess:
    """A training in one process."""

    rank, size, local_rank, local_size = 0, 1, 0, 1

    def average(self, tensors: Sequence[Any], *, compress: bool = False) -> list[Any]:  # noqa: ARG002
        return list(tensors)

    def broadcast(self, variables: Sequence[Any]) -> None: ...

    def gather(self, value: Any) -> list[Any]:
        return [value]


class Horovod:
    """The ranks that mpirun or horovodrun started."""

    def __init__(self) -> None:
        import horovod.tensorflow as hvd

        hvd.init()
        self._hvd = hvd
        self.rank, self.size = hvd.rank(), hvd.size()
        self.local_rank, self.local_size = hvd.local_rank(), hvd.local_size()

    def average(self, tensors: Sequence[Any], *, compress: bool = False) -> list[Any]:
        compression = self._hvd.Compression.fp16 if compress else self._hvd.Compression.none
        return list(self._hvd.grouped_allreduce(list(tensors), op=self._hvd.Average, compression=compression))

    def broadcast(self, variables: Sequence[Any]) -> None:
        # The names are ours: Horovod's own come from the variables and must differ from each other.
        for number, variable in enumerate(variables):
            variable.assign(self._hvd.broadcast(variable, root_rank=0, name=f"state{number}"))

    def gather(self, value: Any) -> list[Any]:
        return list(self._hvd.allgather_object(value))


def initialize() -> Communicator:
    """Meets the other ranks, if a launcher started this process as one of several."""
    started_by = ("OMPI_COMM_WORLD_SIZE", "HOROVOD_SIZE")
    if not any(name in os.environ for name in started_by):
        return SingleProcess()
    environment.set_horovod_defaults(gpus=bool(tf.config.list_physical_devices("GPU")))
    try:
        return Horovod()
    except ImportError as error:
        raise TrainingError(
            ExitStatus.INVALID_CONFIGURATION, f"several ranks need Horovod, which does not load here: {error}"
        ) from None


def run_collectively(ranks: Communicator, act: Callable[[], T]) -> T:
    """What `act` returns, if it refuses on no rank; else the first rank's refusal, raised on every rank alike.

    That rank is to blame, unless all refuse.
    """
    result: T | None = None
    mine: tuple[ExitStatus, str] | None = None
    try:
        result = act()
    except TrainingError as refused:
        mine = (refused.verdict, refused.message)
    outcomes = ranks.gather(mine)
    refusals = [(rank, refusal) for rank, refusal in enumerate(outcomes) if refusal is not None]
    if refusals:
        rank, (verdict, message) = refusals[0]
        raise TrainingError(verdict, message, collective=True, rank=rank if len(refusals) < len(outcomes) else None)
    return result  # type: ignore[return-value]  # no refusal: `act` returned


def pin_device(ranks: Communicator, device: str) -> str:
    """Takes this rank's own GPU, or hides them all; returns gpu or cpu, and never falls back from what was asked."""
    gpus = tf.config.list_physical_devices("GPU")
    if device == "cpu" or (device == "auto" and not gpus):
        tf.config.set_visible_devices([], "GPU")
        malloc.retain_freed_memory()
        # Ranks on one machine share its cores; TensorFlow would give each of them a thread for every core.
        if "TF_NUM_INTRAOP_THREADS" not in os.environ:
            cores = len(os.sched_getaffinity(0)) // ranks.local_size
            # Only before the process's first operation, as in every rank; a caller that had one keeps its threads.
            with suppress(RuntimeError):
                tf.config.threading.set_intra_op_parallelism_threads(max(1, cores))
        return "cpu"
    if not gpus:
        raise _no_gpu(f"rank {ranks.rank}: {_why_no_gpu()}")
    if ranks.local_rank >= len(gpus):
        raise _no_gpu(f"rank {ranks.rank} needs number {ranks.local_rank} of its machine, and {len(gpus)} are seen")
    try:
        tf.config.set_visible_devices(gpus[ranks.local_rank], "GPU")
        tf.config.experimental.set_memory_growth(gpus[ranks.local_rank], True)
        with tf.device("/GPU:0"):
            tf.reduce_sum(tf.ones([8])).numpy()
    except (tf.errors.OpError, RuntimeError, ValueError) as error:
        raise _no_gpu(f"rank {ranks.rank}: {error}") from None
    return "gpu"


_DRIVER_FILES = ("libcuda.so.1", "libnvidia-ml.so.1")
"""What TensorFlow loads of the NVIDIA driver. Without either it registers no GPU and reports nothing."""


def _why_no_gpu() -> str:
    """The most specific reason known for TensorFlow registering no GPU."""
    if not tf.test.is_built_with_cuda():
        return "this TensorFlow is built without CUDA: use the trainer's CUDA image, or set device to cpu"
    missing = [name for name in _DRIVER_FILES if not _loads(name)]
    if missing:
        return (
            f"{' and '.join(missing)} of the NVIDIA driver cannot be loaded: run on a node with the NVIDIA driver and "
            "container toolkit, and set workers.runtimeClassName if its runtime is not the default one"
        )
    return (
        "TensorFlow registered no GPU although the NVIDIA driver's libraries load: set the environment variable "
        "TF_CPP_VMODULE=dso_loader=1 to log which CUDA library is missing"
    )


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _no_gpu(why: str) -> TrainingError:
    return TrainingError(ExitStatus.GPU_UNAVAILABLE, f"GPUs were asked for and cannot be used: {why}")
