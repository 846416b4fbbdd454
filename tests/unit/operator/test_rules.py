"""Each rule alone. It returns a reason to stop, a time to check again, or nothing, and does not change the draft."""

from datetime import timedelta

import pytest

from resnext_operator.api.status import Status
from resnext_operator.domain.draft import Draft
from resnext_operator.domain.reasons import Reason
from resnext_operator.domain.reconciler import STOP_RULES
from resnext_operator.domain.rules.attempt_backoff import attempt_backoff
from resnext_operator.domain.rules.deadline_exceeded import deadline_exceeded
from resnext_operator.domain.rules.pending_deadline_exceeded import pending_deadline_exceeded
from resnext_operator.domain.rules.pod_template_changed import pod_template_changed
from resnext_operator.domain.rules.rejection_backoff import rejection_backoff
from resnext_operator.domain.rules.resized import resized
from resnext_operator.domain.rules.rule import Recheck, StopReason, first_match, waits_for
from resnext_operator.domain.rules.ssh_keys_recreated import ssh_keys_recreated
from resnext_operator.domain.rules.stalled_too_long import stalled_too_long
from resnext_operator.domain.rules.start_backoff import start_backoff
from resnext_operator.domain.rules.suspended import suspended
from resnext_operator.domain.rules.ttl_expired import ttl_expired
from tests.support.fake_cluster import Cluster

START = "2026-01-01T00:00:00Z"
RULES = (
    *STOP_RULES,
    *(pending_deadline_exceeded, attempt_backoff, start_backoff, rejection_backoff, ttl_expired),
)


def draft(status=None, **spec):
    """Draft of a training with a running attempt, with fields of the stored status and of the spec replaced."""
    cluster = Cluster(**spec)
    cluster.run()
    cluster.body["status"] |= status or {}
    return Draft(cluster.training, cluster.seen, cluster.now)


def after(seconds, made):
    """The same draft, later."""
    made.now += timedelta(seconds=seconds)
    return made


def stop(answer, reason):
    return isinstance(answer, StopReason) and answer.reason is reason


def recheck(answer, made, seconds):
    return answer == Recheck(made.now + timedelta(seconds=seconds))


def stalled_status():
    stalled = {"type": "Stalled", "status": "True", "reason": "Stalled", "message": "rank 1 at 20"}
    return {"conditions": [{**stalled, "lastTransitionTime": START}]}


def ended(cause):
    attempt = {"number": 1, "startTime": START, "endTime": START, "cause": cause, "workers": 2}
    return {"attempts": [attempt], "failures": 2}


def rejected(seconds):
    retry = f"2026-01-01T00:00:{seconds:02}.500Z"
    return {"rejection": {"cause": "Quota", "message": "x", "since": START, "retryTime": retry}}


def test_rules_find_nothing_in_running_training():
    """No rule applies to a progressing training with the default policy."""
    assert [rule(draft()) for rule in RULES] == [None] * len(RULES)


def test_suspended_training_stops():
    """spec.suspend stops the attempt, whatever else applies."""
    made = draft()
    made.training = Cluster(suspend=True).training
    assert stop(first_match(made, STOP_RULES), Reason.SUSPENDING)


def test_deadline_stops_at_active_deadline_seconds():
    """Before the deadline the rule returns its time."""
    made = draft(runPolicy={"activeDeadlineSeconds": 60})
    assert recheck(deadline_exceeded(made), made, 60)
    assert stop(deadline_exceeded(after(60, made)), Reason.DEADLINE_EXCEEDED)


def test_resized_compares_attempt_with_spec():
    """The attempt was started on two workers."""
    made = draft()
    made.replicas = 3
    answer = resized(made)
    assert isinstance(answer, StopReason)
    assert answer.reason is Reason.RESIZING
    assert "from 2 to 3 workers" in answer.message


def test_stall_stops_after_stall_deadline_seconds():
    """The time counts from the transition of the condition."""
    made = draft(stalled_status(), runPolicy={"stallDeadlineSeconds": 30})
    assert recheck(stalled_too_long(made), made, 30)
    answer = stalled_too_long(after(30, made))
    assert isinstance(answer, StopReason)
    assert answer.reason is Reason.HUNG
    assert answer.message.endswith("rank 1 at 20")


def test_pod_template_changed_if_revision_differs():
    """A pod without a revision label counts as current."""
    made = draft()
    made.revision = "another"
    assert stop(pod_template_changed(made), Reason.POD_TEMPLATE_CHANGED)


def test_ssh_keys_recreated_only_stops_pending_launcher():
    """Running ranks have already read the keys."""
    cluster = Cluster()
    cluster.settle()
    cluster.ready()
    cluster.settle()
    made = Draft(cluster.training, cluster.seen, cluster.now)
    assert made.launcher is not None
    assert made.launcher.phase == "Pending"
    assert ssh_keys_recreated(made) is None
    object.__setattr__(made.state, "keys", "another uid")
    assert stop(ssh_keys_recreated(made), Reason.SSH_KEYS_RECREATED)
    cluster.ready()
    made = Draft(cluster.training, cluster.seen, cluster.now)
    object.__setattr__(made.state, "keys", "another uid")
    assert ssh_keys_recreated(made) is None


def test_pending_deadline_counts_from_start_of_launcher():
    """While an attempt is running, only its launcher may be pending."""
    made = draft(runPolicy={"pendingDeadlineSeconds": 60})
    assert recheck(pending_deadline_exceeded(made), made, 60)
    assert stop(pending_deadline_exceeded(after(60, made)), Reason.PENDING_DEADLINE_EXCEEDED)


def test_pending_deadline_separates_summary_and_cause():
    """The attempt records the summary alone; the training's message contains the cause as well."""
    cause = "pod p exited before the training started: exit code 1"
    failed = {"failedStarts": [{"time": START, "pod": "p", "message": cause}]}
    found = pending_deadline_exceeded(after(60, draft(failed, runPolicy={"pendingDeadlineSeconds": 60})))
    assert isinstance(found, StopReason)
    assert (found.summary, found.detail) == ("pods did not start within 60 s (runPolicy.pendingDeadlineSeconds)", cause)
    assert found.message == f"{found.summary}: {cause}"


@pytest.mark.parametrize(("cause", "waits"), [("crashed", True), ("disrupted", False), ("stopped", False)])
def test_attempt_backoff_follows_failures_alone(cause, waits):
    """Two failures cause a backoff of 20 s; a disruption or a stop causes none."""
    made = draft(ended(cause))
    assert recheck(attempt_backoff(made), made, 20) if waits else attempt_backoff(made) is None
    assert attempt_backoff(after(20, made)) is None


def test_start_backoff_follows_failed_starts():
    """The backoff counts from the last failed start."""
    made = draft({"failedStarts": [{"time": START, "pod": "p", "message": "m"}], "failures": 1})
    assert recheck(start_backoff(made), made, 10)
    assert start_backoff(after(10, made)) is None


def test_rejection_backoff_lasts_until_retry_time():
    """Milliseconds count: the first backoffs are shorter than a second."""
    made = draft(rejected(3))
    assert recheck(rejection_backoff(made), made, 3.5)
    assert rejection_backoff(after(3.5, made)) is None


def test_ttl_expires_after_completion_time():
    """Without a completion time, or without a TTL, the training stays."""
    finished = {"completionTime": START}
    made = draft(finished, runPolicy={"ttlSecondsAfterFinished": 5})
    assert recheck(ttl_expired(made), made, 5)
    assert stop(ttl_expired(after(5, made)), Reason.COMPLETED)
    assert ttl_expired(draft(finished)) is None


def test_first_match_books_rechecks_before_it():
    """The first rule that applies wins. The earliest recheck of the rules before it is planned."""
    made = draft()

    def at(seconds):
        return lambda draft: Recheck(draft.now + timedelta(seconds=seconds))

    found = StopReason(Reason.RESIZING, "found")
    assert first_match(made, [at(7), at(5), lambda _: found, at(1)]) == found
    assert made.requeue_after == timedelta(seconds=5)
    assert not waits_for(made, suspended)
    assert waits_for(made, at(3))
    assert made.requeue_after == timedelta(seconds=3)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.__name__)
def test_rule_changes_nothing(rule):
    """The draft is the same before and after each rule."""
    policy = {"activeDeadlineSeconds": 60, "pendingDeadlineSeconds": 60, "ttlSecondsAfterFinished": 5}
    status = {**stalled_status(), **rejected(3), "completionTime": START}
    made = draft(status, runPolicy=policy)
    before = Status.parse(made.status.to_json()).to_json(), made.conditions.all(), made.requeue_after
    for _ in range(2):
        rule(made)
        assert (made.status.to_json(), made.conditions.all(), made.requeue_after) == before
        assert not (made.create)
        assert not (made.delete)
        assert not (made.events)
        after(3600, made)


def test_every_rule_is_in_file_of_its_name():
    """A reader finds a rule by its name."""
    assert {rule.__module__.rpartition(".")[2] for rule in RULES} == {rule.__name__ for rule in RULES}
