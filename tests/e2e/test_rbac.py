"""RBAC on the simulated cluster: the role of the chart grants exactly what the operator uses."""

import asyncio
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest
import yaml

from resnext_operator.rendering import names
from tests.support.kube import ROOT
from tests.support.simcluster.api import RELEASE, SYSTEM, run
from tests.support.simcluster.environment import Environment
from tests.support.simcluster.proxy import Call, Fault
from tests.support.simcluster.scenarios import (
    TrainingScenario,
    create_to_running,
    create_to_succeeded,
    suspend_to_resumed,
    training_scenario,
)

pytestmark = pytest.mark.exclusive

Permission = tuple[str, str, str]
"""Group, resource and verb."""


def granted(kind: str) -> Iterator[Permission]:
    """The permissions that the chart grants to the operator."""
    chart = ROOT / "charts" / RELEASE
    # The role is the same for every image; the test hooks have roles of their own.
    images = ("--set", "image=operator", "--set", "trainerImage=trainer")
    rendered = run("helm", "template", RELEASE, chart, "--namespace", SYSTEM, "--skip-tests", *images)
    for each in yaml.safe_load_all(rendered):
        if each and each["kind"] == kind:
            for rule in each["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        yield from ((group, resource, verb) for verb in rule["verbs"])


def needed(calls: list[Call]) -> Iterator[Permission]:
    """Permissions that the calls needed, and that for finalizers, which some clusters require."""
    for call in calls:
        if call.resource:
            yield call.group, call.resource, call.verb
        if call.verb == "create":
            for owner in json.loads(call.sent)["metadata"].get("ownerReferences", ()):
                if owner.get("blockOwnerDeletion"):
                    yield owner["apiVersion"].partition("/")[0], f"{owner['kind'].lower()}s/finalizers", "update"


async def with_another_hash(scenario: TrainingScenario) -> None:
    """The operator updates a child that an older version created."""
    await create_to_running(scenario)
    old = {"metadata": {"annotations": {names.SPEC_HASH: "of-another-version"}}}
    path = f"/apis/networking.k8s.io/v1/namespaces/{scenario.namespace}/networkpolicies/it"
    await scenario.api.merge(path, old)

    async def updated() -> bool:
        found = await scenario.api.find(path)
        return bool(found and found["metadata"]["annotations"][names.SPEC_HASH] != "of-another-version")

    await scenario.until(updated, "the update")


async def within_a_quota(scenario: TrainingScenario) -> None:
    """Workers get a scheduling gate, and the operator removes it when all are admitted."""
    path = f"/api/v1/namespaces/{scenario.namespace}/resourcequotas"
    await scenario.api.request("POST", path, {"metadata": {"name": "team"}, "spec": {"hard": {"pods": "10"}}})

    async def known() -> bool:
        found = await scenario.api.find(f"{path}/team")
        return bool(found and (found.get("status") or {}).get("hard"))

    # The API server admits no pod before that.
    await scenario.until(known, "the quota's status")
    await create_to_succeeded(scenario)


async def until_ttl_expires(scenario: TrainingScenario) -> None:
    await scenario.create(last_attempt=1, runPolicy={"ttlSecondsAfterFinished": 1})

    async def deleted() -> bool:
        return await scenario.api.find(scenario.path) is None

    await scenario.until(deleted, "the training's deletion")


def test_role_grants_exactly_what_operator_uses(environment: Environment):
    """Requests are recorded over scenarios that take every path; each write is sent twice to provoke races."""

    async def record() -> list[Call]:
        # A new Lease, so that creating it is covered as well.
        await environment.api.remove(f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{RELEASE}")
        lives = (suspend_to_resumed, with_another_hash, until_ttl_expires, within_a_quota)
        async with AsyncExitStack() as stack:
            scenarios = [await stack.enter_async_context(training_scenario(environment)) for _ in lives]
            # Only this namespace: in a terminating namespace every creation is forbidden.
            where = {"namespaces": ",".join(scenario.namespace for scenario in scenarios), "lease": (SYSTEM, RELEASE)}
            it = await stack.enter_async_context(environment.operator(**where, fault=Fault.TWICE))
            await asyncio.gather(*(live(scenario) for live, scenario in zip(lives, scenarios, strict=True)))
            return it.proxy.calls

    calls = environment.run(record())
    # With the operator's own token: this tests the role as granted, not only its text.
    assert [str(call) for call in calls if call.code == 403] == []
    assert set(needed(calls)) == set(granted("ClusterRole")) | set(granted("Role"))
    rights = {*granted("ClusterRole"), *granted("Role")}
    assert not [right for right in rights if "*" in right]
    assert not [right for right in rights if right[1].startswith("pods/")]
    assert {verb for _, resource, verb in rights if resource == "secrets"} == {"get", "create"}
