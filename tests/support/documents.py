"""Manifests with the specs that kubectl and the API server read from them, or None if they are rejected.

The specs were computed with the Go packages of kubectl and the API server 1.34; the end-to-end tests compare them with
a cluster.
"""

from typing import Any

Spec = dict[str, Any]

HEAD = "apiVersion: resnext.dev/v1alpha2\nkind: ResNeXtTraining\nmetadata: {name: one}\n"
DATASET = "dataset: {claimName: imagenet}"


def spec(training: str = "{epochs: 10}", more: str = "") -> str:
    """One training; `more` has further fields of its spec, each preceded by a comma."""
    return f"{HEAD}spec: {{training: {training}, {DATASET}{more}}}\n"


def as_json(name: str, epochs: str) -> str:
    head = '"apiVersion":"resnext.dev/v1alpha2","kind":"ResNeXtTraining"'
    return (
        f'{{{head},"metadata":{{"name":"{name}"}},'
        f'"spec":{{"training":{{"epochs":{epochs}}},"dataset":{{"claimName":"imagenet"}}}}}}'
    )


def stored(training: dict[str, Any], **fields: Any) -> Spec:
    """The spec that the API server stores."""
    return {"training": training, "dataset": {"claimName": "imagenet"}, **fields}


TWO = spec("{epochs: 20}").replace("name: one", "name: two")
CLAIM = """apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: in-front-of-a-training}
spec: {accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}
---
"""
LIST = "apiVersion: resnext.dev/v1alpha2\nkind: ResNeXtTrainingList\nitems:\n"

TEXTS: dict[str, tuple[str, list[Spec] | None]] = {
    "exponent without a point": (
        spec("{epochs: 1e1, optimizer: {learningRate: 1e-1, weightDecay: 1e-4}}"),
        [stored({"epochs": 10, "optimizer": {"learningRate": 0.1, "weightDecay": 0.0001}})],
    ),
    "float that is whole": (spec("{epochs: 90.0, batchSize: 64.0}"), [stored({"batchSize": 64, "epochs": 90})]),
    "float without leading digits": (spec("{epochs: 10, mixup: .2}"), [stored({"epochs": 10, "mixup": 0.2})]),
    "octal, hexadecimal, underscores": (
        spec("{epochs: 010, batchSize: 0x40, seed: 1_000}"),
        [stored({"batchSize": 64, "epochs": 8, "seed": 1000})],
    ),
    "boolean words": (
        spec("{epochs: 10, xla: no, deterministic: on}"),
        [stored({"deterministic": True, "epochs": 10, "xla": False})],
    ),
    "sexagesimal": (spec("{epochs: 1:30}"), None),
    "fraction for an integer": (spec("{epochs: 10.5}"), None),
    "integer beyond 64 bits": (spec("{epochs: 9223372036854775808}"), None),
    "infinity": (spec("{epochs: 10, mixup: .inf}"), None),
    "number too large": (spec("{epochs: 10, mixup: 1e400}"), None),
    "quoted number": (spec("{epochs: '10'}"), None),
    "boolean for a number": (spec("{epochs: 10, mixup: yes}"), None),
    "date as a label": (
        spec(more=", workers: {labels: {day: 2026-01-01}}"),
        [stored({"epochs": 10}, workers={"labels": {"day": "2026-01-01"}})],
    ),
    "number as a label": (spec(more=", workers: {labels: {day: 20260101}}"), None),
    "key that is not a string": (
        spec(more=", launcher: {nodeSelector: {1: 'a', yes: 'b', 1.5: 'c'}}"),
        [stored({"epochs": 10}, launcher={"nodeSelector": {"1": "a", "1.5": "c", "true": "b"}})],
    ),
    "null key": (spec(more=", launcher: {nodeSelector: {null: 'a'}}"), None),
    "nulls": (
        spec(
            "{epochs: 10, batchSize: null, optimizer: ~, data: {indexPath: }}",
            ", workers: null, launcher: {nodeSelector: {a: null}}, checkpoints: ",
        ),
        [stored({"data": {}, "epochs": 10}, launcher={"nodeSelector": {}})],
    ),
    "null in a list": (spec("{epochs: 10, optimizer: {stepEpochs: [30, null]}}"), None),
    "null for an unknown field": (spec("{epochs: 10, epoch: null}"), None),
    "null for a required field": (spec("null"), None),
    "no training": (HEAD + f"spec: {{{DATASET}}}\n", None),
    "list for a training": (spec("[]"), None),
    "string for a training": (spec("''"), None),
    "fraction of a CPU as a number": (spec(more=", workers: {resources: {requests: {cpu: 0.5, memory: 1.5Gi}}}"), None),
    "fraction of a CPU as a string": (
        spec(more=", workers: {resources: {requests: {cpu: '0.5', memory: 1.5Gi}}}"),
        [stored({"epochs": 10}, workers={"resources": {"requests": {"cpu": "0.5", "memory": "1.5Gi"}}})],
    ),
    "whole CPUs as a float": (
        spec(more=", workers: {resources: {requests: {cpu: 2.0}}}"),
        [stored({"epochs": 10}, workers={"resources": {"requests": {"cpu": 2}}})],
    ),
    "duplicate key": (spec("{epochs: 10, epochs: 20}"), [stored({"epochs": 20})]),
    "merge": (spec("{<<: {epochs: 10, seed: 1}, seed: 2}"), [stored({"epochs": 10, "seed": 2})]),
    "alias": (spec("{epochs: &n 10, batchSize: *n}"), [stored({"batchSize": 10, "epochs": 10})]),
    "unknown anchor": (spec("{epochs: *n}"), None),
    "snake case": (spec("{epochs: 10, batch_size: 64}"), None),
    "snake case in the workers": (spec(more=", workers: {shared_memory: 1Gi}"), None),
    "unknown field of the training": (spec("{epochs: 10, epoch: 10}"), None),
    "unknown field of the spec": (spec(more=", worker: {}"), None),
    "unknown field of the resource": (spec() + "spek: {}\n", None),
    "unknown field of the metadata": (spec().replace("{name: one}", "{name: one, label: {}}"), None),
    "another version": (spec().replace("v1alpha2", "v1beta1"), None),
    "another group": (spec().replace("resnext.dev", "example.com"), None),
    "no version": (spec().replace("apiVersion: resnext.dev/v1alpha2\n", ""), None),
    "name in capitals": (spec().replace("name: one", "name: One"), None),
    "number as the name": (spec().replace("name: one", "name: 1"), None),
    "number as a label of the resource": (spec().replace("{name: one}", "{name: one, labels: {a: 1}}"), None),
    "status is dropped": (spec() + "status: {phase: 1}\n", [stored({"epochs": 10})]),
    "another kind before the training": (CLAIM + spec(), [stored({"epochs": 10})]),
    "separators around": ("---\n" + spec() + "---\n", [stored({"epochs": 10})]),
    "two trainings": (spec() + "---\n" + TWO, [stored({"epochs": 10}), stored({"epochs": 20})]),
    "comment after a separator": ("--- # one\n" + spec(), [stored({"epochs": 10})]),
    "text after a separator": ("--- {}\n" + spec(), None),
    "end of a document": (spec() + "...\nanything: [\n", [stored({"epochs": 10})]),
    "directive": ("%YAML 1.1\n---\n" + spec(), None),
    "list": (
        "apiVersion: v1\nkind: List\nitems:\n- " + spec().rstrip().replace("\n", "\n  ") + "\n",
        [stored({"epochs": 10})],
    ),
    "list without kinds": (
        LIST + f"- metadata: {{name: one}}\n  spec: {{training: {{epochs: 10}}, {DATASET}}}\n",
        [stored({"epochs": 10})],
    ),
    "JSON": (as_json("one", "10"), [stored({"epochs": 10})]),
    "JSON with a whole float": (as_json("one", "1e1"), [stored({"epochs": 10})]),
    "several JSON objects": (
        as_json("one", "10") + as_json("two", "20"),
        [stored({"epochs": 10}), stored({"epochs": 20})],
    ),
    "JSON, then YAML": (as_json("one", "10") + "\n---\n" + TWO, [stored({"epochs": 10}), stored({"epochs": 20})]),
    "flow mapping": (
        "{" + HEAD.replace("\n", ", ") + f"spec: {{training: {{epochs: 10}}, {DATASET}}}}}",
        [stored({"epochs": 10})],
    ),
    "carriage returns": (spec().replace("\n", "\r\n"), [stored({"epochs": 10})]),
    "tab between tokens": (spec("{epochs:\t10}"), [stored({"epochs": 10})]),
    "tab as indentation": (HEAD + "spec:\n\ttraining: {epochs: 10}\n", None),
    "document without a kind": ("a: 1\n---\n" + spec(), None),
    "scalar": ("text\n", None),
    "bracket that is not closed": (HEAD + "spec: [\n", None),
}

CASES = {name: (text.encode(), specs) for name, (text, specs) in TEXTS.items()} | {
    "UTF-8 with a byte order mark": (spec().encode("utf-8-sig"), [stored({"epochs": 10})]),
    "UTF-16, little-endian": (("\ufeff" + spec()).encode("utf-16-le"), [stored({"epochs": 10})]),
    "UTF-16, big-endian": (("\ufeff" + spec()).encode("utf-16-be"), [stored({"epochs": 10})]),
    "UTF-16 without a byte order mark": (spec().encode("utf-16-le"), None),
}
"""Manifests and their specs, by the feature that they cover."""
