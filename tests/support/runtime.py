"""The runtime of reconciliation with real components and a fake API server."""

from datetime import datetime

from resnext_operator.api.training import Training
from resnext_operator.domain.plan import Event
from resnext_operator.runtime.admission_check import Admission
from resnext_operator.runtime.cache import Cache
from resnext_operator.runtime.client import KubeClient
from resnext_operator.runtime.controller import Runtime
from resnext_operator.runtime.event_recorder import EventRecorder
from resnext_operator.runtime.metrics import Metrics
from resnext_operator.runtime.progress_poller import ProgressPoller
from resnext_operator.runtime.settings import Settings
from resnext_operator.runtime.training_reader import TrainingReader
from resnext_operator.runtime.workqueue import WorkQueue


class Recorder(EventRecorder):
    """Keeps the reasons of events instead of writing them."""

    def __init__(self, cluster: KubeClient) -> None:
        super().__init__(cluster)
        self.reasons: list[str] = []

    def record(self, training: Training, event: Event, now: datetime) -> None:  # noqa: ARG002
        self.reasons.append(event.reason)


def runtime_on(server: KubeClient) -> Runtime:
    """A runtime with an empty cache and without background tasks."""
    cache, queue, settings = Cache(), WorkQueue(), Settings()
    metrics = Metrics(cache, queue.__len__)
    poller = ProgressPoller(cache, queue, settings, metrics.guard)
    recorder, admission = Recorder(server), Admission(server)
    reader = TrainingReader(settings.site)
    return Runtime(settings, server, cache, queue, poller, recorder, metrics, admission, reader, metrics.guard)
