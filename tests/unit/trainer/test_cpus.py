"""CPUs of a rank: limits of the container, and binding to the CPUs next to its GPU."""

import os

import numpy as np
import pytest
import tensorflow as tf

from resnext_trainer.config.validation import resolve
from resnext_trainer.data import native_decoder
from resnext_trainer.data.input_pipeline import Shard, open_input_pipeline
from resnext_trainer.errors import TrainingError
from resnext_trainer.runtime import cpu_binding, cpus, distributed
from resnext_trainer.runtime.cpu_binding import bind_to_gpu, choose
from resnext_trainer.runtime.distributed import SingleProcess

NODE = set(range(128))
NEAR, FAR = set(range(64)), set(range(64, 128))
"""The CPUs of two NUMA nodes."""


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"cpu.max": "1600000 100000\n"}, 16.0),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu.max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_quota_is_read_from_cgroup(tmp_path, files, limit):
    """Version 2 and version 1, with and without a limit, and a machine without these files."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpus.quota(tmp_path) == limit


@pytest.mark.parametrize(("limit", "expected"), [(None, 128), (16.0, 16), (1.5, 2), (0.2, 1), (500.0, 128)])
def test_usable_cpus_respect_limit_and_mask(limit, expected):
    """The limit is rounded up; the mask shows the exclusive CPUs of the static CPU manager policy."""
    assert cpus.usable(NODE, limit) == expected


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 128),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "8"}, 16),
        ({"HOROVOD_LOCAL_SIZE": "3"}, 42),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "200"}, 1),
    ],
)
def test_cpus_are_divided_among_ranks_of_pod(variables, expected):
    """Every rank gets at least one."""
    assert cpus.share(128, variables) == expected


@pytest.mark.parametrize(
    ("allowed", "near", "rank", "share", "expected"),
    [
        # Eight ranks on two NUMA nodes.
        (NODE, [NEAR] * 4 + [FAR] * 4, 5, 16, FAR),
        # One rank whose CPU limit is that of a NUMA node.
        (NODE, [NEAR], 0, 64, NEAR),
        # The mask has CPUs of both nodes, as in the static CPU manager policy without Topology Manager.
        (set(range(32, 96)), [NEAR, FAR], 1, 32, set(range(64, 96))),
    ],
)
def test_rank_is_bound_to_cpus_near_gpu(allowed, near, rank, share, expected):
    """The CPUs of the NUMA node that the pod may use."""
    assert choose(allowed, near, rank, share) == expected


@pytest.mark.parametrize(
    ("allowed", "near", "share"),
    [
        # One rank may use more CPUs than the NUMA node has.
        (NODE, [NEAR], 128),
        # All GPUs on one NUMA node: its CPUs do not suffice for all ranks.
        (NODE, [NEAR] * 8, 16),
        # The pod already runs on this NUMA node only.
        (NEAR, [NEAR], 16),
        # The pod has no CPU next to the GPU.
        (FAR, [NEAR], 16),
        # NVML reports no CPUs for the GPU.
        (NODE, [set()], 16),
    ],
)
def test_rank_is_not_bound_if_it_loses_cpus(allowed, near, share):
    """Binding must not take CPU time from the ranks."""
    assert choose(allowed, near, 0, share) is None


class Nvml:
    """NVML of a machine with two GPUs on two NUMA nodes."""

    NVMLError = OSError

    def __init__(self, broken=False):
        self._broken = broken

    def nvmlInit(self):
        if self._broken:
            raise OSError

    def nvmlDeviceGetCount(self):
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):
        return index

    def nvmlDeviceGetCpuAffinity(self, handle, words):
        return [2**64 - 1 if word == handle else 0 for word in range(words)]


@pytest.fixture
def bound(monkeypatch):
    """The masks that are set, on a node with 128 CPUs for two ranks."""
    masks = []
    monkeypatch.setattr(cpu_binding, "import_nvml", Nvml)
    monkeypatch.setattr(cpus, "per_rank", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: NODE)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _pid, mask: masks.append(mask))
    for name in (cpu_binding.SETTING, "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    return masks


def test_bind_to_gpu_reads_masks_of_nvml(bound):
    """The CPUs next to the second GPU are those of the second word."""
    bind_to_gpu(1, 2, gpus=2)
    assert bound == [FAR]


@pytest.mark.parametrize(
    ("variables", "gpus", "nvml"),
    [
        ({cpu_binding.SETTING: "none"}, 2, Nvml),
        ({"CUDA_VISIBLE_DEVICES": "1,0"}, 2, Nvml),
        # TensorFlow does not see the same GPUs as NVML, as with MIG.
        ({}, 1, Nvml),
        ({}, 2, lambda: Nvml(broken=True)),
        ({}, 2, lambda: None),
    ],
)
def test_bind_to_gpu_without_knowledge_changes_nothing(bound, monkeypatch, variables, gpus, nvml):
    """The user disabled binding, TensorFlow numbers the GPUs differently, or NVML is missing."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cpu_binding, "import_nvml", nvml)
    bind_to_gpu(0, 1, gpus)
    assert not bound


def test_invalid_binding_names_variable_and_values(bound, monkeypatch):
    """A misspelled value is rejected instead of being treated as the default."""
    monkeypatch.setenv(cpu_binding.SETTING, "off")
    with pytest.raises(TrainingError, match="RANK_CPU_BINDING: 'off': must be gpu or none"):
        bind_to_gpu(1, 2, gpus=2)
    assert not bound


@pytest.mark.parametrize(
    ("mask", "text"), [({0}, "0"), ({0, 1, 2, 3}, "0-3"), ({*range(16), *range(64, 80), 99}, "0-15,64-79,99")]
)
def test_described_cpus_are_ranges(monkeypatch, mask, text):
    """As in /proc/PID/status."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: mask)
    assert cpu_binding.described() == text


@pytest.fixture
def threads(monkeypatch):
    """The sizes of TensorFlow's thread pools, for six CPUs per rank."""
    sizes = {}
    monkeypatch.setattr(cpus, "per_rank", lambda: 6)
    for pool in ("intra", "inter"):
        name = f"set_{pool}_op_parallelism_threads"
        monkeypatch.setattr(tf.config.threading, name, lambda size, pool=pool: sizes.update({pool: size}))
        monkeypatch.delenv(f"TF_NUM_{pool.upper()}OP_THREADS", raising=False)
    return sizes


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {"intra": 6, "inter": 6}),
        ({"TF_NUM_INTRAOP_THREADS": "2"}, {"inter": 6}),
        ({"TF_NUM_INTEROP_THREADS": "2"}, {"intra": 6}),
    ],
)
def test_thread_pools_have_cpus_of_rank(threads, monkeypatch, variables, expected):
    """The trainer keeps the sizes that the user sets."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    distributed.pin_device(SingleProcess(), "cpu")
    assert threads == expected


def test_rank_with_one_cpu_has_two_inter_op_threads(threads, monkeypatch):
    """A collective that waits for other ranks must not block all other operations."""
    monkeypatch.setattr(cpus, "per_rank", lambda: 1)
    distributed.pin_device(SingleProcess(), "cpu")
    assert threads == {"intra": 1, "inter": 2}


@pytest.mark.parametrize(("device", "pool"), [("gpu", 6), ("cpu", None)])
def test_tf_data_decodes_in_own_threads_on_gpu(few, monkeypatch, device, pool):
    """The pool has as many threads as the rank has CPUs, and AUTOTUNE does not plan for more."""
    monkeypatch.setattr(cpus, "per_rank", lambda: 6)
    used, real = [], tf.data.Dataset.with_options

    def with_options(dataset, options):
        used.append(options)
        return real(dataset, options)

    monkeypatch.setattr(tf.data.Dataset, "with_options", with_options)
    config = resolve(few).model_copy(update={"device": device})
    next(iter(open_input_pipeline(config, Shard(0, 1)).train(0)))
    assert used[0].threading.private_threadpool_size == pool
    assert used[0].autotune.cpu_budget == 6


def test_native_decoder_uses_cpus_of_rank(few, monkeypatch):
    """It does not use all CPUs of the node."""
    few["data"] |= {"pipeline": "native"}
    monkeypatch.setattr(cpus, "per_rank", lambda: 6)
    used = []

    def decode(jpegs, _cuts, decoding, threads):
        used.append(threads)
        return np.zeros((len(jpegs), decoding.size, decoding.size, 3), np.uint8)

    monkeypatch.setattr(native_decoder, "decode", decode)
    monkeypatch.setattr(native_decoder, "available", lambda: True)
    next(iter(open_input_pipeline(resolve(few), Shard(0, 1)).train(0)))
    assert set(used) == {6}
