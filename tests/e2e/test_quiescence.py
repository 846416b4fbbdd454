"""Quiescence on the simulated cluster: no writes when idle or without the lease, no new pods for an outdated spec."""

import asyncio
import copy
from contextlib import AsyncExitStack

import pytest

from resnext_operator.runtime.client import ApiError
from tests.support.simcluster.environment import Environment
from tests.support.simcluster.proxy import Call
from tests.support.simcluster.scenarios import (
    TrainingScenario,
    create_to_running,
    create_to_succeeded,
    training_scenario,
    wait_until_idle,
)

pytestmark = pytest.mark.exclusive


async def suspended(scenario: TrainingScenario) -> None:
    await create_to_running(scenario)
    await scenario.change(suspend=True)
    await scenario.phase("Suspended")


async def finished(scenario: TrainingScenario) -> None:
    await create_to_succeeded(scenario)


async def failed(scenario: TrainingScenario) -> None:
    await scenario.create(last_attempt=1, exit_code=3)
    await scenario.phase("Failed")


async def pending(scenario: TrainingScenario) -> None:
    await scenario.create(workers={"replicas": 2, "nodeSelector": {"no": "such-node"}})

    async def unschedulable() -> bool:
        return (await scenario.status()).get("reason") == "Unschedulable"

    await scenario.until(unschedulable, "the scheduler's message")


async def without_claim(scenario: TrainingScenario) -> None:
    await scenario.create(checkpoints={"claimName": "nowhere"})

    async def claim_missing() -> bool:
        return (await scenario.status()).get("reason") == "ClaimNotFound"

    await scenario.until(claim_missing, "the missing claim")


IDLE_SCENARIOS = (create_to_running, suspended, finished, failed, pending, without_claim)


def test_idle_operator_writes_nothing(environment: Environment):
    """Neither the operator that ran the training nor its successor writes anything over several resyncs and relists."""

    async def watch() -> None:
        async with AsyncExitStack() as stack:
            scenarios = [await stack.enter_async_context(training_scenario(environment)) for _ in IDLE_SCENARIOS]
            namespaces = ",".join(scenario.namespace for scenario in scenarios)
            lease = (scenarios[0].namespace, "leader")
            it = await stack.enter_async_context(environment.operator(namespaces=namespaces, lease=lease))
            await asyncio.gather(*(bring(scenario) for bring, scenario in zip(IDLE_SCENARIOS, scenarios, strict=True)))
            for life in ("the first operator", "the next operator"):
                written = await wait_until_idle(it)
                polls, lists = environment.ranks.requests, len(relists(it.proxy.calls))
                await asyncio.sleep(3)
                written_calls = [str(call) for call in it.proxy.writes[written:]]
                assert not written_calls, f"{life} wrote while idle: {written_calls}"
                # The operator was not stuck: it polled and listed.
                assert environment.ranks.requests > polls
                assert len(relists(it.proxy.calls)) > lists
                it.kill()
                await asyncio.sleep(2)
            assert it.starts == 3
            assert len(it.proxy.writes) == written, "the third operator wrote as well"

    environment.run(watch())


def relists(calls: list[Call]) -> list[Call]:
    return [call for call in calls if call.verb == "list" and call.resource == "pods"]


# -- leader election ---------------------------------------------------------------------------------------------------


def test_operator_exits_after_losing_lease(environment: Environment):
    """The restarted operator waits until the lease expires before it writes."""

    async def watch() -> None:
        async with AsyncExitStack() as stack:
            scenario = await stack.enter_async_context(training_scenario(environment))
            where = {"namespaces": scenario.namespace, "lease": (scenario.namespace, "leader")}
            it = await stack.enter_async_context(environment.operator(**where))
            await create_to_running(scenario)
            path = f"/apis/coordination.k8s.io/v1/namespaces/{scenario.namespace}/leases/leader"
            await environment.api.merge(path, {"spec": {"holderIdentity": "another"}})

            async def followed() -> bool:
                return it.starts == 2

            await scenario.until(followed, "its end", 10)
            assert "lease leader was acquired by another replica" in it.log.read_text()
            written = len(it.proxy.writes)
            await scenario.change(suspend=True)
            await asyncio.sleep(5)
            assert [str(call) for call in it.proxy.writes[written:]] == []
            await scenario.phase("Suspended")
            assert it.starts == 2

    environment.run(watch())


# -- specs of an earlier version ---------------------------------------------------------------------------------------


def test_spec_of_earlier_version_keeps_pods(environment: Environment):
    """If a looser definition accepted the spec, the pods are kept, and a condition names the field."""

    async def watch() -> None:
        path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/resnexttrainings.resnext.dev"
        async with AsyncExitStack() as stack:
            scenario = await stack.enter_async_context(training_scenario(environment))
            where = {"namespaces": scenario.namespace, "lease": (scenario.namespace, "leader")}
            await stack.enter_async_context(environment.operator(**where))
            await create_to_running(scenario)
            before = {pod["metadata"]["uid"] for pod in (await scenario.children())["pods"]}
            strict = (await environment.api.request("GET", path))["spec"]
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
                    return False  # The API server still uses the previous CRD.
                return True

            async def condition_reported() -> bool:
                conditions = (await scenario.status()).get("conditions", ())
                return any(each["type"] == "SpecInvalid" and each["status"] == "True" for each in conditions)

            try:
                await scenario.until(stored, "a definition that allows it")
            finally:
                await environment.api.merge(path, {"spec": {"versions": strict["versions"]}})
            await scenario.until(condition_reported, "the condition")
            await asyncio.sleep(3)
            assert (await scenario.status())["phase"] == "Running"
            assert {pod["metadata"]["uid"] for pod in (await scenario.children())["pods"]} == before

    environment.run(watch())
