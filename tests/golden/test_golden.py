"""Golden files of the manifests rendered from each sample, one YAML file per sample.

UPDATE_GOLDEN=1 rewrites them; review the difference like code.
"""

from pathlib import Path

import pytest
import yaml

from resnext_operator.api.operator_policy import OperatorPolicy
from resnext_operator.cli import manifests
from resnext_operator.rendering.secret import KeyPair, Keys
from tests.golden.goldens import check, dump

SAMPLES = Path(__file__).parents[2] / "manifests" / "samples"
KEYS = Keys(
    KeyPair("user's private key\n", "user's public key\n"), KeyPair("host's private key\n", "host's public key\n")
)


def rendered(path: Path) -> str:
    body = yaml.safe_load(path.read_text(encoding="utf-8"))
    body["metadata"] |= {"namespace": "default", "uid": "00000000-0000-0000-0000-000000000000"}
    return dump(*manifests(body, OperatorPolicy("resnext-trainer"), KEYS), width=120)


@pytest.mark.parametrize("sample", sorted(SAMPLES.glob("resnext-*.yaml")), ids=lambda path: path.stem)
def test_sample_matches_golden(sample: Path) -> None:
    """The rendered manifests of each sample equal its golden file."""
    check(sample.name, rendered(sample))
