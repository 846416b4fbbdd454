"""Checks before pods are created whether the API server would admit them, with one dry run per pod template."""

import asyncio
import hashlib
import json
import time
from dataclasses import replace
from typing import Any

from resnext_operator.api.objects.pod import Pod
from resnext_operator.api.status import Status
from resnext_operator.api.training import Training
from resnext_operator.domain.observed import Rejection
from resnext_operator.rendering.hashing import with_spec_hash
from resnext_operator.rendering.pods import example_hosts, launcher_pod, worker_pod
from resnext_operator.runtime.client import ApiError, KubeClient, path_of

# Each entry is a 32-byte hash. The oldest entries are dropped and checked again.
_MAX_TEMPLATES = 4096

# A quota that is created within this time is detected when it rejects a pod.
_QUOTA_SECONDS = 30.0
_MAX_NAMESPACES = 4096


class Rejected(Exception):
    """The API server would not admit a pod."""

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(f"{rejection.code}: {rejection.message}")
        self.rejection = rejection


class Admission:
    """Results of dry runs and quota lookups, cached for the lifetime of the process."""

    def __init__(self, cluster: KubeClient) -> None:
        self._cluster = cluster
        self._admitted: dict[str, None] = {}
        self._quotas: dict[str, tuple[float, bool]] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    async def check(self, training: Training) -> bool:
        """Whether the namespace has a ResourceQuota; raises Rejected if a worker or the launcher would be rejected.

        A dry run reserves nothing, so the pods of a training may still exceed a quota together.
        """
        template = _template(training)
        # If several trainings with the same template are created at once, only the first one does the dry run.
        turn = self._turns.setdefault(template, asyncio.Lock())
        try:
            async with turn:
                if template not in self._admitted:
                    await self._dry_run(training, worker_pod(training, 0, 0))
                    await self._dry_run(training, _launcher(training, 1))
                    _store_limited(self._admitted, template, None, _MAX_TEMPLATES)
                return await self._has_quota(training.namespace)
        finally:
            if not turn.locked():
                self._turns.pop(template, None)

    async def check_launcher(self, training: Training) -> None:
        """Repeat the launcher's dry run after its workers count against the quota; raises Rejected."""
        await self._dry_run(training, _launcher(training, 1))

    def forget(self, training: Training) -> None:
        """Drop the result for this template after one of its pods was rejected, so that it is checked again."""
        self._admitted.pop(_template(training), None)

    async def _dry_run(self, training: Training, pod: Pod) -> None:
        try:
            await self._cluster.request(
                "POST", path_of("Pod", training.namespace), with_spec_hash(pod), query=[("dryRun", "All")]
            )
        except ApiError as refused:
            # 409: a pod of this name exists. The API server checks that after admission, so the pod was admitted.
            if refused.code == 409 or "does not support dry run" in str(refused):
                return
            if (rejection := refused.rejection(pod)) is None:
                raise
            raise Rejected(rejection) from refused

    async def _has_quota(self, namespace: str) -> bool:
        checked, found = self._quotas.get(namespace, (float("-inf"), False))
        if time.monotonic() - checked < _QUOTA_SECONDS:
            return found
        try:
            page = await self._cluster.request("GET", path_of("ResourceQuota", namespace), query=[("limit", "1")])
            found = bool(page.get("items"))
        except ApiError as refused:
            # The Role of an older chart does not allow it. A quota is then detected when it rejects a pod.
            if refused.code != 403:
                raise
            found = False
        _store_limited(self._quotas, namespace, (time.monotonic(), found), _MAX_NAMESPACES)
        return found


def _template(training: Training) -> str:
    """Hash of the pods without their names, owner and checkpoint directory; trainings with equal pods share one dry
    run."""
    checkpoints = training.spec.checkpoints.model_copy(update={"sub_path": ""})
    spec = training.spec.model_copy(update={"checkpoints": checkpoints})
    unnamed = replace(training, name="training", uid="", spec=spec, status=Status())
    pods = (worker_pod(unnamed, 0, 0), _launcher(unnamed, 1))
    return hashlib.sha256(json.dumps([training.namespace, pods], sort_keys=True).encode()).hexdigest()


def _launcher(training: Training, attempt: int) -> Pod:
    return launcher_pod(training, attempt, example_hosts(training))


def _store_limited(known: dict[str, Any], key: str, value: Any, limit: int) -> None:
    known.pop(key, None)
    known[key] = value
    while len(known) > limit:
        del known[next(iter(known))]
