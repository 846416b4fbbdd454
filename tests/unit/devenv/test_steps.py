"""Setup steps: finished ones are skipped, changed ones run again, and errors refer to the log."""

import threading
from pathlib import Path

import pytest

from hack.devenv import shell, steps
from hack.devenv.steps import Step, StepFailed, closure, digest, perform


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(steps, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(steps, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(shell, "LOGS", tmp_path / "logs")
    return tmp_path


def test_finished_step_is_skipped():
    """The second run does nothing."""
    ran: list[str] = []
    once = Step("once", "runs", lambda: ran.append("once"))
    perform([once])
    perform([once])
    assert ran == ["once"]


def test_changed_input_reruns_step(tmp_path):
    """Equal contents do not."""
    ran: list[str] = []
    file = tmp_path / "input"
    again = Step("again", "runs", lambda: ran.append(file.read_text()), inputs=lambda: [file])
    for text in ("one", "two", "two"):
        file.write_text(text)
        perform([again])
    assert ran == ["one", "two"]


def test_input_changed_during_step_is_not_done(tmp_path):
    """The step runs again next time."""
    file = tmp_path / "input"
    file.write_text("before")
    step = Step("edited", "runs", lambda: file.write_text("after") and None, inputs=lambda: [file])
    perform([step])
    assert not step.done()


def test_missing_result_reruns_step():
    """A step whose result was deleted is not done."""
    ran: list[str] = []
    lost = Step("lost", "runs", lambda: ran.append("lost"), present=lambda: False)
    perform([lost])
    perform([lost])
    assert len(ran) == 2


def nothing() -> None: ...


def test_closure_orders_dependencies_once():
    """Each dependency comes first and once."""
    order = {
        "image": Step("image", "", nothing, needs=("base", "registry")),
        "registry": Step("registry", "", nothing, needs=("docker",)),
        "base": Step("base", "", nothing, needs=("docker",)),
        "docker": Step("docker", "", nothing),
    }
    assert [item.name for item in closure(["image"], order)] == ["docker", "base", "registry", "image"]


def test_independent_steps_run_in_parallel():
    """Two steps wait for each other at a barrier."""
    meeting = threading.Barrier(2, timeout=10)  # breaks unless both are there

    def meet() -> None:
        meeting.wait()

    perform([Step(name, "waits for the other", meet) for name in ("left", "right")])


def test_failed_step_shows_log_and_skips_dependents():
    """The error contains the end of the log and its path."""
    ran: list[str] = []
    fails = Step("fails", "fails", lambda: shell.run("sh", "-c", "echo the reason; exit 3"))
    follows = Step("follows", "runs", lambda: ran.append("follows"), needs=("fails",))
    with pytest.raises(StepFailed, match=r"(?s)the reason.*fails\.log"):
        perform([fails, follows])
    assert ran == []
    assert not fails.done()


def test_digest_covers_contents_names_and_modes(tmp_path):
    """Compiled Python files are ignored."""
    folder = tmp_path / "sources"
    folder.mkdir()
    (folder / "a.py").write_text("1")
    seen = {digest([folder])}
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "a.pyc").write_text("compiled")
    assert digest([folder]) in seen
    for change in (
        lambda: (folder / "a.py").write_text("2"),
        lambda: (folder / "a.py").rename(folder / "b.py"),
        lambda: (folder / "b.py").chmod(0o755),
    ):
        change()
        assert digest([folder]) not in seen
        seen.add(digest([folder]))
