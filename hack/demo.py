"""`make demo`: installs the operator and Prometheus on the cluster and trains the digits sample."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from hack import monitoring
from resnext_operator.api.status import Phase, Status
from resnext_operator.watch import watch

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "manifests" / "samples"
NAMESPACE, NAME = "demo", "resnext-digits"
console = Console(highlight=False, soft_wrap=True)


def setup(*arguments: str) -> str:
    """The output of an hack/devenv command: a path or an image reference."""
    done = subprocess.run(
        [sys.executable, ROOT / "hack" / "devenv", *arguments], check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip()


KUBECONFIG = setup("kubeconfig")


def run(*command: str | Path, stdin: str | None = None) -> str:
    """Standard output of a command. Raises CalledProcessError if it fails; its standard error is not captured."""
    done = subprocess.run(
        [*command, "--kubeconfig", KUBECONFIG], input=stdin, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout


@contextmanager
def step(says: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    console.print(f"✓ {says} [dim]({time.monotonic() - started:.0f} s)[/dim]")


def observed_status() -> Status:
    resource = json.loads(run("kubectl", "-n", NAMESPACE, "get", "rnx", NAME, "-o", "json"))
    return Status.parse(resource.get("status"))


def install() -> None:
    with step("operator installed in namespace resnext-system from charts/resnext-operator"):
        run(
            *("helm", "upgrade", "--install", "resnext-operator", ROOT / "charts" / "resnext-operator"),
            # The tests apply the CRD in this cluster with kubectl, which then owns some of its fields.
            *("--namespace", "resnext-system", "--create-namespace", "--wait", "--force-conflicts"),
            *("--set", f"image={setup('image-ref', 'operator')}"),
            *("--set", f"trainerImage={setup('image-ref', 'trainer-cpu')}"),
        )
    with step("Prometheus installed in namespace monitoring"):
        run("kubectl", "apply", "-f", "-", stdin=monitoring.manifests(setup("image-ref", "monitoring")))


def dataset() -> None:
    with step("dataset written to claim digits-data by Job digits-dataset"):
        namespace = f"""\
apiVersion: v1
kind: Namespace
metadata:
  name: {NAMESPACE}
  labels: {{pod-security.kubernetes.io/enforce: restricted}}
"""
        run("kubectl", "apply", "-f", "-", stdin=namespace)
        manifest = (SAMPLES / "digits-dataset.yaml").read_text()
        image = setup("image-ref", "trainer-cpu")
        with_image = manifest.replace("image: resnext-trainer", f"image: {image}")
        # The image of a Job is immutable. A new Job keeps existing shards.
        run("kubectl", "-n", NAMESPACE, "delete", "job", "digits-dataset", "--ignore-not-found")
        run("kubectl", "-n", NAMESPACE, "apply", "-f", "-", stdin=with_image)
        run("kubectl", "-n", NAMESPACE, "wait", "--for=condition=Complete", "job/digits-dataset", "--timeout=180s")


def delete_previous() -> None:
    """Delete the training and the checkpoints of the previous demo, from which the new training would resume."""
    claim = f"{NAME}-checkpoints"
    if run("kubectl", "-n", NAMESPACE, "get", "pvc", claim, "--ignore-not-found"):
        with step(f"training {NAME} and claim {claim} of the previous demo deleted"):
            for kind, name in (("rnx", NAME), ("pvc", claim)):
                run("kubectl", "-n", NAMESPACE, "delete", kind, name, "--ignore-not-found", "--timeout=90s")
            setup("volumes")


def train() -> int:
    delete_previous()
    console.print(f"$ kubectl -n {NAMESPACE} apply -f manifests/samples/resnext-digits.yaml")
    started = time.monotonic()
    run("kubectl", "-n", NAMESPACE, "apply", "-f", SAMPLES / "resnext-digits.yaml")
    status = watch(observed_status, console)
    took = time.monotonic() - started
    progress, checkpoint = status.progress, status.checkpoint
    if status.phase is not Phase.SUCCEEDED or not progress or not checkpoint:
        console.print(f"[red]{status.phase}[/red] after {took:.0f} s; show the cause:")
        console.print(f"  kubectl --kubeconfig {KUBECONFIG} -n {NAMESPACE} describe rnx {NAME}")
        return 1
    console.print(f"top-1 accuracy {progress.top1 or 0:.4f} on the validation set, {took:.0f} s after kubectl apply")
    console.print(f"checkpoint of step {checkpoint.step}: {checkpoint.path} on claim {NAME}-checkpoints")
    console.print(
        f"""\
Next:
  export KUBECONFIG={KUBECONFIG} PATH={Path(KUBECONFIG).parent / "bin"}:$PATH
  kubectl -n {NAMESPACE} describe rnx {NAME}
  kubectl -n {NAMESPACE} logs {NAME}-launcher-1
  kubectl -n monitoring port-forward svc/prometheus 9090"""
    )
    return 0


def main() -> int:
    started = time.time()
    try:
        install()
        dataset()
        return train()
    except subprocess.CalledProcessError as error:
        console.print(f"[red]failed:[/red] {' '.join(map(str, error.cmd))}")
        return 1
    finally:
        now, command = time.time(), float(os.environ.get("RESNEXT_STARTED", started))
        console.print(f"demo: {now - started:.0f} s; total including the cluster setup: {now - command:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
