"""`resnext-operator render` prints what would be created, or says in one sentence what is wrong with the file."""

from pathlib import Path

import pytest
import yaml

from resnext_operator.__main__ import main
from resnext_operator.api import KIND

SAMPLE = Path(__file__).parents[3] / "manifests" / "samples" / "resnext-digits.yaml"
HEAD = f"apiVersion: resnext.dev/v1alpha1\nkind: {KIND}\n"


def test_a_sample_becomes_manifests(capsys):
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
        ("", f"the file holds no {KIND}"),
        ("kind: Pod\n", f"the file holds no {KIND}"),
        (f"kind: {KIND}\n", "apiVersion: Invalid value: null: must be resnext.dev/v1alpha1"),
        (HEAD, "metadata.name: Required value"),
        (HEAD + "metadata: {name: x}\n", "spec: Required value"),
        (HEAD + "metadata: {name: x}\nspec: {training: {epochs: -1}}\n", "spec.training.epochs"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(tmp_path, capsys, text, sentence):
    path = tmp_path / "training.yaml"
    path.write_text(text)
    assert main(["render", "-f", str(path)]) == 2
    said = capsys.readouterr()
    assert sentence in said.err
    assert not said.out


def test_a_missing_file_is_named(capsys):
    assert main(["render", "-f", "/no/such/file"]) == 2
    assert "/no/such/file" in capsys.readouterr().err
