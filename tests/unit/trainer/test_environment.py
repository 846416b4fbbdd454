"""Environment variables that must be set before a rank starts."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from resnext_trainer.cli.main import main
from resnext_trainer.runtime import environment, rank_exec, signals

SOURCE = Path(__file__).parents[3] / "trainer" / "native" / "sleeping_yield.c"
TWO = {"OMPI_COMM_WORLD_SIZE": "2"}


@pytest.fixture
def library(monkeypatch, tmp_path):
    """As if the library were installed on a machine without GPUs."""
    monkeypatch.setattr(environment, "_sleeping_yield", lambda: "/lib/yield.so")
    monkeypatch.setattr(environment, "_DEVICES", tmp_path)
    return tmp_path


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("preloaded", ["", "/lib/jemalloc.so"])
def test_rank_on_cpus_preloads_library_once(preloaded):
    """A library that the user preloads is kept, and a rank that starts again does not add ours again."""
    given = TWO | {"PATH": "/bin", "LD_PRELOAD": preloaded}
    variables = environment.for_rank(given)
    assert variables == given | {"LD_PRELOAD": "/lib/jemalloc.so:/lib/yield.so" if preloaded else "/lib/yield.so"}
    assert environment.for_rank(variables) == variables


@pytest.mark.usefixtures("library")
def test_single_rank_keeps_variables():
    """A training on one rank waits for no other."""
    for variables in ({}, {"OMPI_COMM_WORLD_SIZE": "1"}):
        assert environment.for_rank(variables) == variables


def test_rank_with_gpu_keeps_variables(library):
    """The cores of a GPU machine are idle, and a sleeping rank would notice the end of a collective later."""
    (library / "nvidia0").touch()
    assert environment.for_rank(TWO) == TWO


@pytest.mark.usefixtures("library")
def test_rank_without_library_keeps_variables(monkeypatch):
    """resnext-native is optional."""
    monkeypatch.setattr(environment, "_sleeping_yield", lambda: None)
    assert environment.for_rank(TWO) == TWO


def test_sleeping_yield_takes_time_without_computing(tmp_path):
    """200 yields sleep for at least 50 microseconds each."""
    preload = tmp_path / "yield.so"
    subprocess.run(["cc", "-std=c11", "-D_DEFAULT_SOURCE", "-shared", "-fPIC", SOURCE, "-o", preload], check=True)
    code = "import os, time; a = time.time()\nfor _ in range(200): os.sched_yield()\nprint(time.time() - a)"
    slept = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"LD_PRELOAD": str(preload)}, capture_output=True, check=True
    )
    assert float(slept.stdout) >= 0.01


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("ranks", ["1", "2"])
def test_main_restarts_rank_with_its_variables(monkeypatch, ranks):
    """If a user starts `resnext-train` with mpirun, the variables are missing and the rank restarts itself; a single
    process continues."""
    started = []

    def execve(_program, command, variables):
        started.append((command[1:], variables["LD_PRELOAD"]))
        raise SystemExit(0)  # As the real one, it does not return.

    monkeypatch.setattr(os, "execve", execve)
    monkeypatch.setattr(sys, "argv", ["resnext-train", "train", "--help"])
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", ranks)
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    with pytest.raises(SystemExit):
        main()
    restarted = [(["-m", "resnext_trainer", "train", "--help"], "/lib/yield.so")]
    assert started == (restarted if ranks == "2" else [])


@pytest.mark.usefixtures("library")
def test_rank_of_worker_starts_with_its_variables(monkeypatch, tmp_path):
    """`resnext-train rank` replaces itself with a trainer that need not restart."""
    started = []
    monkeypatch.setattr(os, "execve", lambda _program, _command, variables: started.append(variables["LD_PRELOAD"]))
    monkeypatch.setattr(signals, "block", lambda: None)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    rank_exec.ranks(tmp_path).mkdir(parents=True)
    rank_exec.environment_file(tmp_path).write_text("{}")
    rank_exec.exec_trainer(tmp_path, [])
    assert started == ["/lib/yield.so"]


@pytest.fixture
def gpu(monkeypatch, tmp_path):
    """As if the machine had a GPU, in an environment without the variables for speed."""
    monkeypatch.setattr(environment, "_DEVICES", tmp_path)
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(os, "environ", {"PATH": "/bin", "HOME": "/home/resnext"})
    return tmp_path / "nvidia0"


def test_gpu_defaults_are_set_only_with_gpu(gpu):
    """/dev/nvidiactl without /dev/nvidia0 does not count as a GPU."""
    environment.set_tensorflow_defaults()
    assert os.environ["TF_GPU_THREAD_MODE"] == "gpu_private"
    assert os.environ["NCCL_DEBUG"] == "WARN"
    gpu.rename(gpu.with_name("nvidiactl"))
    os.environ.clear()
    environment.set_tensorflow_defaults()
    assert not {"TF_GPU_THREAD_MODE", "NCCL_DEBUG"} & set(os.environ)


@pytest.mark.usefixtures("gpu")
def test_variables_of_user_take_precedence():
    """They override every default of the trainer."""
    environment.set_tensorflow_defaults()
    environment.set_horovod_defaults(gpus=True)
    ours = [name for name in os.environ if not name.startswith(("PATH", "HOME", "PYTEST"))]
    for name in ours:
        os.environ[name] = "mine"
    environment.set_tensorflow_defaults()
    environment.set_horovod_defaults(gpus=False)
    assert {os.environ[name] for name in ours} == {"mine"}


@pytest.mark.usefixtures("gpu")
def test_variables_for_speed_include_those_of_user():
    """Shows every default of the trainer and the variables that the user sets, but no other variables of the pod."""
    environment.set_tensorflow_defaults()
    environment.set_horovod_defaults(gpus=False)
    ours = {name for name in os.environ if not name.startswith(("PATH", "HOME", "PYTEST"))}
    theirs = {"NCCL_SOCKET_IFNAME": "=eth1", "XLA_FLAGS": "--xla_gpu_autotune_level=2", "CUDA_VISIBLE_DEVICES": "0"}
    theirs |= {"RANK_CPU_BINDING": "none", "RESNEXT_DALI_TRANSFER": "dlpack", "LD_PRELOAD": "sleeping_yield.so"}
    os.environ.update(theirs | {"TRACKER_TOKEN": "secret", "OMPI_COMM_WORLD_RANK": "0"})
    shown = environment.variables_for_speed()
    assert set(shown) == ours | set(theirs)
    assert shown.items() >= theirs.items()


@pytest.mark.parametrize(("gpus", "expected"), [(False, "5 4194304"), (True, "None None")])
def test_horovod_defaults_for_ranks_on_cpus_only(monkeypatch, gpus, expected):
    """Ranks on GPUs exchange gradients through NCCL, for which Horovod's own defaults are made."""
    names = ("HOROVOD_CYCLE_TIME", "HOROVOD_FUSION_THRESHOLD")
    # Set first, so that monkeypatch removes what the call sets.
    for name in (*names, "OMPI_MCA_mpi_yield_when_idle"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    environment.set_horovod_defaults(gpus=gpus)
    assert " ".join(str(os.environ.get(name)) for name in names) == expected


def test_horovod_defaults_keep_values_of_user(monkeypatch):
    """Variables in `workers.env` override the trainer's defaults."""
    chosen = {
        "HOROVOD_CYCLE_TIME": "1",
        "HOROVOD_FUSION_THRESHOLD": "0",
        "OMPI_MCA_mpi_yield_when_idle": "false",
    }
    for name, value in chosen.items():
        monkeypatch.setenv(name, value)
    environment.set_horovod_defaults(gpus=False)
    assert {name: os.environ[name] for name in chosen} == chosen
