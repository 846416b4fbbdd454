"""What the samples become, as reviewed: one plain YAML file each.

UPDATE_GOLDEN=1 writes them anew; the difference is then reviewed like code.
"""

import os
from pathlib import Path

import pytest
import yaml

from resnext_operator import api
from resnext_operator.__main__ import manifests
from resnext_operator.ssh import KeyPair, Keys

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
KEYS = Keys(
    KeyPair("user's private key\n", "user's public key\n"), KeyPair("host's private key\n", "host's public key\n")
)


class Plain(yaml.SafeDumper):
    """A golden is read from top to bottom: no anchors, and a file within a file keeps its lines."""

    def ignore_aliases(self, _data: object) -> bool:
        return True

    def represent_str(self, data: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", data, style="|" if "\n" in data else None)


Plain.add_representer(str, Plain.represent_str)


def rendered(path: Path) -> str:
    body = yaml.safe_load(path.read_text(encoding="utf-8"))
    body["metadata"] |= {"namespace": "default", "uid": "00000000-0000-0000-0000-000000000000"}
    return yaml.dump_all(manifests(body, api.Site("resnext-trainer"), KEYS), Dumper=Plain, sort_keys=False, width=120)


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("resnext-*.yaml")), ids=lambda path: path.stem)
def test_sample_renders_as_reviewed(sample):
    golden = Path(__file__).parent / sample.name
    if os.environ.get("UPDATE_GOLDEN"):
        golden.write_text(rendered(sample))
    assert rendered(sample) == golden.read_text()
