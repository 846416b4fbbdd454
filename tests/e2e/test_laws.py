"""Where nothing changes nothing is written, and the operator needs exactly the rights that its role gives."""

import asyncio
import copy
import json
from collections.abc import Iterator
from contextlib import AsyncExitStack

import yaml

from resnext_operator.rendering import names
from resnext_operator.runtime.client import ApiError
from tests.support.kube import ROOT
from tests.support.simcluster.api import RELEASE, SYSTEM, run
from tests.support.simcluster.environment import Environment
from tests.support.simcluster.proxy import Call, Fault
from tests.support.simcluster.scenarios import (
    TrainingScenario,
    create_to_succeeded,
    suspend_to_resumed,
    training_scenario,
    wait_until_idle,
)

# -- once matched, stays matched ---------------------------------------------------------------------------------------


async def running(scenario: TrainingScenario) -> None:
    await scenario.create()
    await scenario.trains()


async def suspended(scenario: TrainingScenario) -> None:
    await running(scenario)
    await scenario.change(suspend=True)
    await scenario.phase("Suspended")


async def finished(scenario: TrainingScenario) -> None:
    await create_to_succeeded(scenario)


async def failed(scenario: TrainingScenario) -> None:
    await scenario.create(last_attempt=1, exit_code=3)
    await scenario.phase("Failed")


async def pending(scenario: TrainingScenario) -> None:
    await scenario.create(workers={"replicas": 2, "nodeSelector": {"no": "such-node"}})

    async def told() -> bool:
        return (await scenario.status()).get("reason") == "Unschedulable"

    await scenario.until(told, "the scheduler's word")


async def without_claim(scenario: TrainingScenario) -> None:
    await scenario.create(checkpoints={"claimName": "nowhere"})

    async def told() -> bool:
        return (await scenario.status()).get("reason") == "ClaimMissing"

    await scenario.until(told, "the missing claim")


AT_REST = (running, suspended, finished, failed, pending, without_claim)


def test_where_nothing_changes_nothing_is_written(environment: Environment):
    """Over resyncs and relists, by the operator that did the work and by the next one alike."""

    async def watch() -> None:
        async with AsyncExitStack() as stack:
            scenarios = [await stack.enter_async_context(training_scenario(environment)) for _ in AT_REST]
            namespaces = ",".join(scenario.namespace for scenario in scenarios)
            lease = (scenarios[0].namespace, "leader")
            it = await stack.enter_async_context(environment.operator(namespaces=namespaces, lease=lease))
            await asyncio.gather(*(bring(scenario) for bring, scenario in zip(AT_REST, scenarios, strict=True)))
            for life in ("the first operator", "the next operator"):
                written = await wait_until_idle(it)
                asked, lists = environment.ranks.asked, len(relists(it.proxy.calls))
                await asyncio.sleep(3)
                told = [str(call) for call in it.proxy.writes[written:]]
                assert not told, f"{life} wrote with nothing to do: {told}"
                # It was at work all the time.
                assert environment.ranks.asked > asked
                assert len(relists(it.proxy.calls)) > lists
                it.kill()
                await asyncio.sleep(2)
            assert it.starts == 3
            assert len(it.proxy.writes) == written, "the third operator wrote as well"

    environment.run(watch())


def relists(calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.verb == "list" and call.resource == "pods"]


# -- who leads ---------------------------------------------------------------------------------------------------------


def test_an_operator_that_has_lost_its_lease_ends_and_the_next_waits_for_its_turn(environment: Environment):
    async def watch() -> None:
        async with AsyncExitStack() as stack:
            scenario = await stack.enter_async_context(training_scenario(environment))
            where = {"namespaces": scenario.namespace, "lease": (scenario.namespace, "leader")}
            it = await stack.enter_async_context(environment.operator(**where))
            await running(scenario)
            path = f"/apis/coordination.k8s.io/v1/namespaces/{scenario.namespace}/leases/leader"
            await environment.api.merge(path, {"spec": {"holderIdentity": "another"}})

            async def followed() -> bool:
                return it.starts == 2

            await scenario.until(followed, "its end", 10)
            assert "lease leader was taken by another" in it.log.read_text()
            written = len(it.proxy.writes)
            await scenario.change(suspend=True)
            await asyncio.sleep(5)
            assert [str(call) for call in it.proxy.writes[written:]] == []
            await scenario.phase("Suspended")
            assert it.starts == 2

    environment.run(watch())


# -- specs of an earlier version ---------------------------------------------------------------------------------------


def test_spec_of_an_earlier_version_keeps_its_pods(environment: Environment):
    """Stored with a definition that allowed it: the pods stay the same, and a condition names the field."""

    async def watch() -> None:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/resnexttrainings.resnext.dev"
        async with AsyncExitStack() as stack:
            scenario = await stack.enter_async_context(training_scenario(environment))
            where = {"namespaces": scenario.namespace, "lease": (scenario.namespace, "leader")}
            await stack.enter_async_context(environment.operator(**where))
            await running(scenario)
            before = {pod["metadata"]["uid"] for pod in (await scenario.children())["pods"]}
            strict = (await environment.api.find(path))["spec"]
            loose = copy.deepcopy(strict["versions"])
            anything = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
            loose[0]["schema"]["openAPIV3Schema"]["properties"]["spec"] = anything
            await environment.api.merge(path, {"spec": {"versions": loose}})

            async def stored() -> bool:
                try:
                    await scenario.change(
                        workers={"tolerations": [{"key": "spot", "operator": "Exists", "value": "x"}]}
                    )
                except ApiError:
                    return False  # by the definition of before, which the API server has still in use
                return True

            async def told() -> bool:
                conditions = (await scenario.status()).get("conditions", ())
                return any(each["type"] == "SpecInvalid" and each["status"] == "True" for each in conditions)

            try:
                await scenario.until(stored, "a definition that allows it")
            finally:
                await environment.api.merge(path, {"spec": {"versions": strict["versions"]}})
            await scenario.until(told, "the condition")
            await asyncio.sleep(3)
            assert (await scenario.status())["phase"] == "Running"
            assert {pod["metadata"]["uid"] for pod in (await scenario.children())["pods"]} == before

    environment.run(watch())


# -- rights ------------------------------------------------------------------------------------------------------------

Right = tuple[str, str, str]
"""Group, resource and verb."""


def granted(kind: str) -> Iterator[Right]:
    """What the chart gives the operator."""
    rendered = run("helm", "template", RELEASE, ROOT / "charts" / RELEASE, "--namespace", SYSTEM)
    for each in yaml.safe_load_all(rendered):
        if each and each["kind"] == kind:
            for rule in each["rules"]:
                for group in rule["apiGroups"]:
                    for resource in rule["resources"]:
                        yield from ((group, resource, verb) for verb in rule["verbs"])


def needed(calls: list[Call]) -> Iterator[Right]:
    """What the calls needed; some clusters ask for a right to the finalizers of an owner whose deletion is blocked."""
    for call in calls:
        if call.resource:
            yield call.group, call.resource, call.verb
        if call.verb == "create":
            for owner in json.loads(call.sent)["metadata"].get("ownerReferences", ()):
                if owner.get("blockOwnerDeletion"):
                    yield owner["apiVersion"].partition("/")[0], f"{owner['kind'].lower()}s/finalizers", "update"


async def with_another_hash(scenario: TrainingScenario) -> None:
    """What an older version of the operator has made is brought up to date."""
    await running(scenario)
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

    # Before that the API server admits no pod at all.
    await scenario.until(known, "the quota's status")
    await create_to_succeeded(scenario)


async def to_the_end_of_its_time(scenario: TrainingScenario) -> None:
    await scenario.create(last_attempt=1, runPolicy={"ttlSecondsAfterFinished": 1})

    async def gone() -> bool:
        return await scenario.api.find(scenario.path) is None

    await scenario.until(gone, "the training's deletion")


def test_the_role_allows_what_the_operator_does_and_nothing_else(environment: Environment):
    """Recorded over lives that take every path; what only a race would need is provoked by sending each write twice."""

    async def record() -> list[Call]:
        # Also the Lease is made, not only taken over.
        await environment.api.remove(f"/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/{RELEASE}")
        lives = (suspend_to_resumed, with_another_hash, to_the_end_of_its_time, within_a_quota)
        async with AsyncExitStack() as stack:
            scenarios = [await stack.enter_async_context(training_scenario(environment)) for _ in lives]
            # Not everywhere: in a namespace that is going, every creation is forbidden.
            where = {"namespaces": ",".join(scenario.namespace for scenario in scenarios), "lease": (SYSTEM, RELEASE)}
            it = await stack.enter_async_context(environment.operator(**where, fault=Fault.TWICE))
            await asyncio.gather(*(live(scenario) for live, scenario in zip(lives, scenarios, strict=True)))
            return it.proxy.calls

    calls = environment.run(record())
    # With the operator's own token: this is the role at work, not only its text.
    assert [str(call) for call in calls if call.code == 403] == []
    assert set(needed(calls)) == set(granted("ClusterRole")) | set(granted("Role"))
    rights = {*granted("ClusterRole"), *granted("Role")}
    assert not [right for right in rights if "*" in right]
    assert not [right for right in rights if right[1].startswith("pods/")]
    assert {verb for _, resource, verb in rights if resource == "secrets"} == {"get", "create"}
