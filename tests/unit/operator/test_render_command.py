"""`resnext-operator render` prints the manifests, or reports an invalid file in one line."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from resnext_operator.api.groupversion import KIND
from resnext_operator.api.spec import Spec
from resnext_operator.api.validation import InvalidTraining, parse
from resnext_operator.cli import main, trainings
from resnext_trainer.config import manifest_yaml
from resnext_trainer.config.manifest_yaml import InvalidManifest
from resnext_trainer.config.manifests import SPEC_FIELDS
from resnext_trainer.config.models import Training
from resnext_trainer.config.validation import without_nulls
from tests.support.documents import CASES
from tests.support.fake_cluster import SITE

SAMPLE = Path(__file__).parents[3] / "manifests" / "samples" / "resnext-digits.yaml"
FIELDS = [str(field.alias) for model in (Training, Spec) for field in model.model_fields.values()]
HEAD = f"apiVersion: resnext.dev/v1alpha2\nkind: {KIND}\n"


def test_render_of_sample_prints_manifests(capsys):
    """Three pods, ConfigMap, Secret, NetworkPolicy and claim are printed."""
    assert main(["render", "-f", str(SAMPLE)]) == 0
    kinds = [each["kind"] for each in yaml.safe_load_all(capsys.readouterr().out)]
    assert kinds.count("Pod") == 3
    assert {"ConfigMap", "Secret", "NetworkPolicy", "PersistentVolumeClaim"} <= set(kinds)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("metadata: [", "neither YAML nor JSON: line 2"),
        ("a: 1\n---\nb: 2\n", "kind: Required value"),
        ("hello", "kind: Required value"),
        ("", f"the file contains no {KIND}"),
        ("kind: Pod\n", f"the file contains no {KIND}"),
        (f"kind: {KIND}\n", "apiVersion: Invalid value: null: must be resnext.dev/v1alpha2"),
        (HEAD, "metadata.name: Required value"),
        (HEAD + "metadata: {name: x}\n", "spec: Required value"),
        (HEAD + "metadata: {name: x}\nspec: {training: {epochs: -1}}\n", "spec.training.epochs"),
    ],
)
def test_render_of_invalid_file_reports_error(tmp_path, capsys, text, sentence):
    """`render` exits with status 2 and prints one message and no output."""
    path = tmp_path / "training.yaml"
    path.write_text(text)
    assert main(["render", "-f", str(path)]) == 2
    printed = capsys.readouterr()
    assert sentence in printed.err
    assert not printed.out


def test_render_prints_every_training_of_file(tmp_path, capsys):
    """Other kinds in the file are ignored."""
    path = tmp_path / "trainings.yaml"
    sample = SAMPLE.read_text()
    path.write_text(f"kind: ConfigMap\n---\n{sample}\n---\n{sample.replace('name: resnext-digits', 'name: second')}")
    assert main(["render", "-f", str(path)]) == 0
    printed = manifest_yaml.documents(capsys.readouterr().out.encode())
    names = [each["metadata"]["name"] for each in printed if each["kind"] == "Pod"]
    assert len(names) == 6
    assert sum(name.startswith("second-") for name in names) == 3


def test_render_quotes_strings_like_numbers(tmp_path, capsys):
    """kubectl would read a bare 1e3 or 010 as a number."""
    texts = ["1e3", "010", "0x10", "yes", "2026-01-01", "1:30", "null", ".5", "1_000"]
    env = ", ".join(f"{{name: V{number}, value: '{text}'}}" for number, text in enumerate(texts))
    path = tmp_path / "training.yaml"
    path.write_text(
        f"{HEAD}metadata: {{name: x}}\nspec: {{training: {{data: {{format: synthetic}}}}, workers: {{env: [{env}]}}}}\n"
    )
    assert main(["render", "-f", str(path)]) == 0
    printed = manifest_yaml.documents(capsys.readouterr().out.encode())
    (worker,) = (
        each
        for each in printed
        if each["metadata"]["name"] == "x-worker-0-0" or "worker" in str(each["metadata"]["name"])
    )
    values = {each["name"]: each.get("value") for each in worker["spec"]["containers"][0]["env"]}
    assert [values[f"V{number}"] for number in range(len(texts))] == texts


@pytest.mark.parametrize(("name", "case"), CASES.items(), ids=CASES)
def test_render_accepts_what_api_server_accepts(tmp_path, capsys, name, case):
    """The verdict and the values are the same; an error is one line."""
    data, specs = case
    path = tmp_path / "training.yaml"
    path.write_bytes(data)
    assert main(["render", "-f", str(path)]) == (2 if specs is None else 0), name
    if specs is not None:
        assert [without_nulls(each["spec"], Spec, "spec") for each in trainings(data)] == specs
    else:
        assert capsys.readouterr().err.count("\n") == 1


KEYS = st.sampled_from([*SPEC_FIELDS, *FIELDS, "name", "limits", "size", "x"]) | st.text(max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=8,
)


@given(spec=st.dictionaries(KEYS, VALUES, max_size=3), extra=st.dictionaries(KEYS, VALUES, max_size=1))
def test_render_of_any_spec_prints_or_rejects(spec, extra):
    """No other exception is raised than those that the command reports."""
    document = {"apiVersion": "resnext.dev/v1alpha2", "kind": KIND, "metadata": {"name": "x"}, "spec": spec} | extra
    with contextlib.suppress(InvalidManifest, InvalidTraining):
        for training in trainings(json.dumps(document).encode()):
            parse(training, SITE)


def test_render_of_missing_file_names_it(capsys):
    """The error names the path."""
    assert main(["render", "-f", "/no/such/file"]) == 2
    assert "/no/such/file" in capsys.readouterr().err
