"""Checkpoint volumes, rejected checkpoint paths, and the status of an attempt that repeats steps."""

import re

import pytest

from resnext_operator.api import crd
from resnext_operator.api.validation import InvalidTraining, parse
from resnext_operator.domain.attempt_outcome import PERMANENT_EXIT_STATUSES
from resnext_operator.rendering.hashing import pod_revision
from resnext_operator.rendering.pods import launcher_pod, worker_pod
from resnext_trainer.checkpoint import directory
from resnext_trainer.config.validation import resolve
from resnext_trainer.contract import ExitStatus, Progress, TerminationReport
from tests.support.fake_cluster import HOSTS, SITE, Cluster, resource

MOUNTED_OF_A_CLAIM = "/checkpoints"


def checkpoints_of(pod):
    (container,) = pod["spec"]["containers"]
    mounts = [mount for mount in container["volumeMounts"] if mount["name"] == "checkpoints"]
    return mounts, {each["name"]: each["value"] for each in container["env"]}


def parsed(**spec):
    return parse(resource(**spec), SITE)


def test_worker_0_mounts_whole_claim_without_sub_path():
    """The kubelet creates a subPath as root; on hostPath and NFS no other user can write there."""
    training = parsed(checkpoints={"claimName": "c", "subPath": "runs/a"})
    mounts, environment = checkpoints_of(worker_pod(training, 0, 0))
    assert mounts == [{"name": "checkpoints", "mountPath": MOUNTED_OF_A_CLAIM}]
    assert environment[directory.ROOT] == MOUNTED_OF_A_CLAIM
    assert environment[directory.SUB_PATH] == "runs/a"
    assert environment["RESNEXT_TERMINATION_GRACE_SECONDS"] == "60"


def test_no_other_pod_mounts_claim():
    """ReadWriteOnce is sufficient for the claim."""
    training = parsed(checkpoints={"claimName": "c", "subPath": "runs/a"})
    for pod in (worker_pod(training, 1, 0), launcher_pod(training, 1, HOSTS)):
        mounts, environment = checkpoints_of(pod)
        assert not mounts
        assert not environment.keys() & {directory.ROOT, directory.SUB_PATH}


@pytest.mark.parametrize("path", ["/checkpoints", "/checkpoints/b"])
@pytest.mark.parametrize("sub_path", ["", "runs/a", "a b/$(HOME)", "$$x"])
def test_path_in_claim_matches_kubelet_sub_path(path, sub_path):
    """The pod's environment holds the path, so a ConfigMap of an earlier version keeps its meaning."""
    training = parsed(checkpoints={"claimName": "c", "subPath": sub_path})
    _, environment = checkpoints_of(worker_pod(training, 0, 0))
    # Expanded as by the kubelet: $$ is a dollar sign, $(NAME) a variable.
    assert not re.search(r"(?<!\$)(\$\$)*\$\(", environment.get(directory.SUB_PATH, ""))
    seen = {name: value.replace("$$", "$") for name, value in environment.items()}
    config = directory.located(resolve({"checkpoint": {"path": path}}), seen)
    before = path.replace("/checkpoints", f"/checkpoints/{sub_path}".rstrip("/"), 1)
    assert config.checkpoint.path == before


def test_upgrade_keeps_pods():
    """A newer operator that mounts the claim differently does not replace the pods of a running training."""
    body = resource(checkpoints={"claimName": "c", "subPath": "runs/a"})
    assert pod_revision(parse(body, SITE)) == pod_revision(parse(resource(), SITE))


SENTENCES = {
    "spec.training.checkpoint.path": "must be /checkpoints or a directory below it",
    "spec.checkpoints.subPath": "must be a relative path without",
    "spec.workers.volumeMounts[0].mountPath": "overlaps a path that the operator mounts",
}


def below_checkpoints(path):
    volume = {"name": "x", "emptyDir": {}}
    return {"workers": {"volumes": [volume], "volumeMounts": [{"name": "x", "mountPath": path}]}}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        *(
            ({"training": {"checkpoint": {"path": path}}}, "spec.training.checkpoint.path")
            for path in ("/tmp/ck", "ck", "/", "/checkpoints2", "/checkpoint", "/checkpoints/../tmp", "/checkpoints/..")
        ),
        *(
            ({"checkpoints": {"claimName": "c", "subPath": path}}, "spec.checkpoints.subPath")
            for path in ("/a", "..", "../a", "a/../b", "a/..", "a\nb", "a\x00", "/")
        ),
        (below_checkpoints("/checkpoints/a"), "spec.workers.volumeMounts[0].mountPath"),
    ],
    ids=lambda value: re.sub(r"[^\w./-]", "", str(value))[-40:],
)
def test_path_outside_claim_rejected_at_apply(change, field):
    """The API server and the operator reject it with the same message."""
    with pytest.raises(InvalidTraining) as caught:
        parsed(**change)
    assert str(caught.value).startswith(f"{field}: Invalid value: ")
    assert SENTENCES[field] in str(caught.value)
    assert SENTENCES[field] in str(crd.manifest())


@pytest.mark.parametrize(
    "change",
    [
        {"training": {"checkpoint": {"path": "/checkpoints"}}},
        {"training": {"checkpoint": {"path": "/checkpoints/a..b"}}},
        {"training": {"checkpoint": {"intervalMinutes": 0}}},
        {"checkpoints": {"claimName": "c", "subPath": "runs/a"}},
        {"checkpoints": {"claimName": "c", "subPath": "..a/b.."}},
        {"checkpoints": {"claimName": "c", "subPath": "."}},
        below_checkpoints("/checkpoints2"),
    ],
    ids=str,
)
def test_path_inside_claim_accepted(change):
    """Paths that only resemble an escape from the claim are accepted."""
    parsed(**change)


# -- resumed step ------------------------------------------------------------------------------------------------------


@pytest.fixture
def restarted() -> Cluster:
    """A second attempt, after a checkpoint of step 40."""
    cluster = Cluster()
    cluster.run()
    cluster.wait(seconds=5)
    cluster.train(45, 40)
    cluster.settle()
    cluster.end(ExitStatus.HUNG)
    cluster.settle()
    cluster.wait(seconds=15)
    cluster.settle()
    cluster.ready()
    cluster.settle()
    assert cluster.status["attempts"][-1] == {**cluster.status["attempts"][-1], "number": 2, "checkpointStepBefore": 40}
    return cluster


def resumes(cluster, step):
    cluster.progress = Progress(attempt=2, epoch=2, epochs=8, step=step + 1, steps=160, resumed_step=step)


@pytest.mark.parametrize(("step", "how"), [(20, "resumed from step 20"), (0, "started from the beginning")])
def test_attempt_resumed_earlier_is_reported_in_status(restarted, step, how):
    """The attempt, the condition and one warning report it."""
    resumes(restarted, step)
    restarted.settle()
    sentence = f"attempt 2 {how} although step 40 was saved"
    attempt = restarted.status["attempts"][-1]
    assert attempt["resumedStep"] == step
    assert sentence in attempt["startMessage"]
    (condition,) = (each for each in restarted.status["conditions"] if each["type"] == "Checkpointed")
    assert sentence in condition["message"]
    assert restarted.events.count("ResumedEarlier") == 1
    assert "resumedStep" not in restarted.status["progress"]
    restarted.end(ExitStatus.HUNG, "rank 1 is stuck")
    restarted.settle()
    attempt = restarted.status["attempts"][1]
    assert attempt["message"] == "rank 1 is stuck"
    assert sentence in attempt["startMessage"]
    assert restarted.events.count("ResumedEarlier") == 1


@pytest.mark.parametrize("step", [40, 44, None])
def test_attempt_resumed_from_last_checkpoint_not_reported(restarted, step):
    """Nothing is reported if the attempt resumes from the last checkpoint or a later step, or if the trainer does not
    report the step."""
    restarted.progress = Progress(attempt=2, epoch=2, epochs=8, step=45, steps=160, resumed_step=step)
    restarted.settle()
    assert restarted.status["attempts"][-1].get("resumedStep") == step
    assert "startMessage" not in restarted.status["attempts"][-1]
    assert "ResumedEarlier" not in restarted.events


def test_resumed_step_read_from_termination_message(restarted):
    """An attempt may end before its progress has been polled."""
    progress = Progress(attempt=2, epoch=2, epochs=8, step=21, steps=160, resumed_step=20)
    last_words = TerminationReport(verdict="hung", message="stuck", progress=progress).model_dump_json(by_alias=True)
    restarted.end_pod(restarted.pods("launcher")[-1], ExitStatus.HUNG.value, last_words)
    restarted.settle()
    assert "resumed from step 20 although step 40 was saved" in restarted.status["attempts"][1]["startMessage"]


def test_unsaved_checkpoint_is_retried_and_counted():
    """The failure counts toward backoffLimit."""
    cluster = Cluster(runPolicy={"backoffLimit": 0})
    cluster.run()
    cluster.end(ExitStatus.CHECKPOINT_NOT_SAVED, "the checkpoint of step 40 could not be saved")
    cluster.settle()
    assert cluster.status["failures"] == 1
    assert cluster.status["attempts"][0]["cause"] == "checkpoint_not_saved"
    assert ExitStatus.CHECKPOINT_NOT_SAVED not in PERMANENT_EXIT_STATUSES
