"""Setting up: what is done is skipped, what changed is done again, and a failure says where to read on."""

import threading
from pathlib import Path

import pytest
from images.setup import shell, steps
from images.setup.steps import Step, StepFailed, closure, digest, perform


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(steps, "STAMPS", tmp_path / "stamps")
    monkeypatch.setattr(steps, "LOGS", tmp_path / "logs")
    monkeypatch.setattr(shell, "LOGS", tmp_path / "logs")
    return tmp_path


def test_a_step_runs_once():
    ran: list[str] = []
    once = Step("once", "runs", lambda: ran.append("once"))
    perform([once])
    perform([once])
    assert ran == ["once"]


def test_a_changed_input_runs_the_step_again(tmp_path):
    ran: list[str] = []
    file = tmp_path / "input"
    again = Step("again", "runs", lambda: ran.append(file.read_text()), inputs=lambda: [file])
    for text in ("one", "two", "two"):
        file.write_text(text)
        perform([again])
    assert ran == ["one", "two"]


def test_an_input_changed_during_the_work_is_not_taken_for_done(tmp_path):
    file = tmp_path / "input"
    file.write_text("before")
    step = Step("edited", "runs", lambda: file.write_text("after") and None, inputs=lambda: [file])
    perform([step])
    assert not step.done()


def test_what_is_gone_is_made_again():
    ran: list[str] = []
    lost = Step("lost", "runs", lambda: ran.append("lost"), present=lambda: False)
    perform([lost])
    perform([lost])
    assert len(ran) == 2


def test_a_step_comes_after_what_it_needs_and_once():
    order = {
        "image": Step("image", "", list, needs=("base", "registry")),
        "registry": Step("registry", "", list, needs=("docker",)),
        "base": Step("base", "", list, needs=("docker",)),
        "docker": Step("docker", "", list),
    }
    assert [item.name for item in closure(["image"], order)] == ["docker", "base", "registry", "image"]


def test_independent_steps_run_at_the_same_time():
    meeting = threading.Barrier(2, timeout=10)  # breaks unless both are there
    perform([Step(name, "waits for the other", lambda: meeting.wait() and None) for name in ("left", "right")])


def test_a_failure_shows_the_end_of_its_log_and_keeps_what_needs_it_from_running():
    ran: list[str] = []
    fails = Step("fails", "fails", lambda: shell.run("sh", "-c", "echo the reason; exit 3"))
    follows = Step("follows", "runs", lambda: ran.append("follows"), needs=("fails",))
    with pytest.raises(StepFailed, match=r"(?s)the reason.*fails\.log"):
        perform([fails, follows])
    assert ran == []
    assert not fails.done()


def test_a_hash_sees_contents_names_and_modes_but_no_compiled_python(tmp_path):
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
