"""The command line, `resnext-operator`."""

import argparse
import gc
import json
import sys
from pathlib import Path
from typing import Any

from resnext_operator.api import crd
from resnext_operator.api.groupversion import KIND, PLURAL, RESOURCE
from resnext_operator.api.objects.shared import ManagedObject
from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.api.status import Phase, Status
from resnext_operator.api.validation import InvalidTraining, parse
from resnext_operator.rendering.pods import example_hosts, launcher_pod, worker_pod
from resnext_operator.rendering.secret import Keys, ssh_secret
from resnext_operator.rendering.shared_objects import shared_objects
from resnext_operator.runtime import ssh_keys
from resnext_operator.runtime.settings import InvalidSettings, Settings
from resnext_trainer.cli import shell
from resnext_trainer.config import manifest_yaml
from resnext_trainer.config import manifests as training_manifests
from resnext_trainer.config.manifest_yaml import InvalidManifest


def main(arguments: list[str] | None = None) -> int:
    return shell.guarded("resnext-operator", lambda: _act(arguments))


def _act(arguments: list[str] | None) -> int:
    options = parser().parse_args(arguments)
    code: int = options.act(options)
    return code


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="resnext-operator", description="Kubernetes operator for ResNeXt trainings.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run the controller")
    run.set_defaults(act=_run)

    show = commands.add_parser(
        "render", help="print the manifests of each ResNeXtTraining in a file, without a cluster"
    )
    show.add_argument("-f", "--filename", required=True, help="YAML file with ResNeXtTrainings; - reads standard input")
    show.set_defaults(act=_render)

    schema = commands.add_parser("crd", help="print the CustomResourceDefinition")
    schema.set_defaults(act=_crd)

    live = commands.add_parser("watch", help="watch a training's progress until it finishes")
    live.add_argument("name", help="name of the training")
    live.add_argument("-n", "--namespace", default="default", help="namespace of the training (default: default)")
    live.set_defaults(act=_watch)
    return parser


def manifests(resource: dict[str, Any], site: OperatorPolicy, keys: Keys) -> list[ManagedObject]:
    """The manifests of a training's first attempt, with placeholder addresses for the workers.

    Raises InvalidTraining if the resource is invalid.
    """
    training = parse(resource, site)
    workers = [worker_pod(training, index, 0) for index in range(training.spec.workers.replicas)]
    return [
        *shared_objects(training),
        ssh_secret(training, keys),
        *workers,
        launcher_pod(training, 1, example_hosts(training)),
    ]


def _run(_: argparse.Namespace) -> int:
    import asyncio
    import logging

    from resnext_operator.runtime import app

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(name)s: %(message)s")
    # kopf logs every event, connection and retry with a traceback; the operator logs the relevant ones itself.
    logging.getLogger("kopf").setLevel(logging.CRITICAL)
    try:
        Settings.check_names()
        settings = Settings.from_environment()
    except InvalidSettings as error:
        print(error, file=sys.stderr)
        return 2
    _collect_garbage_rarely()
    return asyncio.run(app.run(settings))


def _collect_garbage_rarely() -> None:
    """Run the garbage collector after 10,000 new objects instead of 700; the JSON of a few events exceeds 700.

    With Python's thresholds, the collector took a third of the CPU time per watch event (two cores, 2026-11-27). It
    does not examine the objects of the imported modules.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _render(options: argparse.Namespace) -> int:
    try:
        data = sys.stdin.buffer.read() if options.filename == "-" else Path(options.filename).read_bytes()
        site = Settings.from_environment().site
        printed = [each for training in trainings(data) for each in manifests(training, site, ssh_keys.generate())]
    except OSError as error:
        where = "standard input is closed or unreadable" if options.filename == "-" else options.filename
        print(f"{where}: {error.strerror}: pass -f FILE, or -f - with a manifest on standard input", file=sys.stderr)
        return 2
    except (InvalidTraining, InvalidManifest, InvalidSettings) as error:
        print(error, file=sys.stderr)
        return 2
    print(manifest_yaml.dump(printed), end="")
    return 0


def trainings(data: bytes) -> list[dict[str, Any]]:
    """Every ResNeXtTraining in a file. Raises InvalidManifest if there is none."""
    if not (found := training_manifests.trainings(manifest_yaml.documents(data))):
        raise InvalidManifest(f"kind: Required value: the file contains no {KIND}")
    return found


def _crd(_: argparse.Namespace) -> int:
    print(manifest_yaml.dump([crd.manifest()], width=120), end="")
    return 0


def _watch(options: argparse.Namespace) -> int:
    from kubernetes import client, config
    from rich.console import Console
    from urllib3.exceptions import HTTPError

    from resnext_operator.watch import watch

    where = (*RESOURCE[:2], options.namespace, PLURAL, options.name)
    try:
        config.load_config()
        objects = client.CustomObjectsApi()

        def get() -> Status:
            return Status.parse(objects.get_namespaced_custom_object(*where).get("status"))

        status = watch(get, Console(highlight=False))
    except config.ConfigException as error:
        print(f"cannot load a kubeconfig: {error}: set KUBECONFIG", file=sys.stderr)
        return 1
    except client.ApiException as error:
        print(f"{KIND} {options.namespace}/{options.name}: {error.status} {error.reason}", file=sys.stderr)
        return 1
    except HTTPError as error:
        print(f"cannot reach the API server: {error}: check KUBECONFIG and the network", file=sys.stderr)
        return 1
    print(json.dumps(status.progress.to_json() if status.progress else {}))
    return 0 if status.phase is Phase.SUCCEEDED else 1
