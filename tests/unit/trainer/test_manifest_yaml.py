"""YAML is read as kubectl reads it.

The expected values were computed with sigs.k8s.io/yaml 1.6 and the resource builder of k8s.io/cli-runtime 0.34.
"""

import json

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from resnext_trainer.config import manifest_yaml, manifests
from resnext_trainer.config.manifest_yaml import InvalidManifest, documents

SCALARS = [
    ("1e-4", 0.0001),
    ("1e3", 1000),
    ("1E3", 1000),
    ("12e03", 12000),
    (".5", 0.5),
    ("-.5", -0.5),
    (".5_0", 0.5),
    ("1.", 1),
    ("90.0", 90),
    ("1_000", 1000),
    ("010", 8),
    ("08", 8),
    ("0o10", 8),
    ("0x1F", 31),
    ("-0x1F", -31),
    ("0b11", 3),
    ("-0.0", 0),
    ("9223372036854775808", 2.0**63),
    ("1e400", "1e400"),
    ("yes", True),
    ("y", True),
    ("On", True),
    ("NO", False),
    ("yEs", "yEs"),
    ("~", None),
    ("null", None),
    ("", None),
    ("nULL", "nULL"),
    ("1:30", "1:30"),
    ("190:20:30", "190:20:30"),
    ("2026-01-01", "2026-01-01"),
    ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
    ("1.2.3", "1.2.3"),
    ("1,000", "1,000"),
    ("500m", "500m"),
    ("=", "="),
    ("<<", "<<"),
    ("NaN", "NaN"),
    ('"1"', "1"),
    ("'yes'", "yes"),
    ("! 1", "1"),
    ("!!str 1", "1"),
    ('!!int "1"', 1),
    ("!!float 1", 1),
    ("!!binary aGVsbG8=", "hello"),
    ("!!timestamp 2026-01-01", "2026-01-01"),
    ("!foo bar", "bar"),
    ("\ttab", "tab"),
    ("a\tb", "a\tb"),
    ("[a,\tb]", ["a", "b"]),
    ("|\n  a\n\n  b", "a\n\nb\n"),
    (">-\n  a\n  b", "a b"),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_yaml_scalar_matches_kubectl(text, value):
    """Applies to files and to --set."""
    (document,) = documents(f"kind: X\nv: {text}\nw: 1\n".encode())
    assert json.dumps(document) == json.dumps({"kind": "X", "v": value, "w": 1})
    assert manifest_yaml.value(text.lstrip("\t") + "\n") == value


MAPPINGS = [
    ("{a: 1, a: 2}", {"a": 2}),
    ("{1: a, 1.5: b, true: c, y: d}", {"1": "a", "1.5": "b", "true": "d"}),
    ("{1234567.0: a, 0.00001: b, 0x10: c}", {"1.234567e+06": "a", "1e-05": "b", "16": "c"}),
    ("{a: &x {b: 1}, c: *x}", {"a": {"b": 1}, "c": {"b": 1}}),
    ("{<<: {a: 1}, a: 2}", {"a": 2}),
    ("{a: 2, <<: {a: 1}}", {"a": 1}),
    ("{<<: [{a: 1}, {a: 2, b: 3}]}", {"a": 1, "b": 3}),
    ("{'<<': {a: 1}}", {"<<": {"a": 1}}),
    ("!!set {a, b}", {"a": None, "b": None}),
    ("{a: !!map {b: 1}}", {"a": {"b": 1}}),
]


@pytest.mark.parametrize(("text", "value"), MAPPINGS)
def test_yaml_mapping_matches_kubectl(text, value):
    """Keys that are not strings, aliases, merge keys and duplicate keys."""
    assert documents(f"v: {text}\n".encode()) == [{"v": value}]


@pytest.mark.parametrize(
    "text",
    [
        "{null: 1}",
        "{[1]: 2}",
        "{18446744073709551615: 1}",
        ".inf",
        "-.INF",
        ".nan",
        "*a",
        "&a [*a]",
        "{<<: 1}",
        "{<<: [1]}",
        "!!int 1.5",
        "!!bool x",
        "!!null x",
        "!!binary a",
        "!!timestamp x",
        '"\\ud800"',
        "@x",
        "`x",
        "%x",
        "[1,,2]",
        "a\x07",
        "[",
        "'",
    ],
)
def test_yaml_value_rejected_like_kubectl(text):
    """The text is not valid YAML, or JSON has no such value."""
    with pytest.raises(InvalidManifest):
        documents(f"kind: X\nv: {text}\n".encode())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: 1\n---\nb: 2\n", [{"a": 1}, {"b": 2}]),
        ("---\n---\n# nothing\n---\na: 1\n---\n", [{"a": 1}]),
        ("--- # first\na: 1\n---\t\nb: 2", [{"a": 1}, {"b": 2}]),
        ("a: 1\n...\nb: 2\n", [{"a": 1}]),
        ("a: 1\r\n---\r\nb: |\r\n  x\r\n", [{"a": 1}, {"b": "x\n"}]),
        ("a: |+\n  x\n\n", [{"a": "x\n\n"}]),
        ("", []),
        ("null\n---\n~\n", []),
        ('{"a": 1}', [{"a": 1}]),
        ('{"a": 1.0}{"b": 2}\n{"c": 1e3} null', [{"a": 1}, {"b": 2}, {"c": 1000}]),
        ('{"a": "\\ud800"}', [{"a": "\ufffd"}]),
        ("  {a: 1}", [{"a": 1}]),
        ("{a: 1}\n---\n{b: 2}\n", [{"a": 1}, {"b": 2}]),
        ('{"a": 1}\n---\nb: 2\n', [{"a": 1}, {"b": 2}]),
    ],
)
def test_yaml_stream_split_like_kubectl(text, found):
    """A stream consists of YAML documents separated by ---, or of consecutive JSON values."""
    assert documents(text.encode()) == found


@pytest.mark.parametrize(
    "text",
    [
        "--- {a: 1}\n",
        "----\na: 1\n",
        "%YAML 1.1\n---\na: 1\n",
        '{"a": 1}{"b": 2}\n---\nc: 3\n',
        '{"a": 1e400}',
        "a: 1\nb\n",
        "a: [\n---\n]\n",
    ],
)
def test_yaml_stream_rejected_like_kubectl(text):
    """Invalid streams have, for example, text after --- or a directive before the first document."""
    with pytest.raises(InvalidManifest):
        documents(text.encode())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_yaml_byte_order_mark_selects_encoding(encoding):
    """UTF-16 needs a byte order mark, as in kubectl."""
    text = ("\ufeff" if encoding in ("utf-16-le", "utf-16-be") else "") + "a: é\n"
    assert documents(text.encode(encoding)) == [{"a": "é"}]


def test_yaml_invalid_utf8_replaced():
    """kubectl replaces these bytes as well."""
    assert documents(b"a: x\xffy\n") == [{"a": "x\ufffdy"}]


def test_yaml_error_has_line_number():
    """Line numbers refer to the file, even in the second document."""
    with pytest.raises(InvalidManifest, match="line 5"):
        documents(b"a: 1\n---\nb: 1\nc: 1\n@d: 1\n")


def test_yaml_exponential_aliases_rejected():
    """A small file must not fill the memory."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(InvalidManifest, match="aliases"):
        documents("\n".join(lines).encode())


def test_yaml_deep_nesting_rejected():
    """Applies to YAML and JSON."""
    for text in ("a: " + "[" * 20_000, '{"a":' * 20_000, '{"a":' * 20_000 + "1" + "}" * 20_000):
        with pytest.raises(InvalidManifest):
            documents(text.encode())


@given(st.text(max_size=40) | st.binary(max_size=40))
def test_yaml_arbitrary_input_parsed_or_rejected(content):
    """No other exception is raised, and the result can be written as JSON in UTF-8."""
    try:
        found = documents(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    except InvalidManifest:
        return
    json.dumps(found, ensure_ascii=False, allow_nan=False).encode()


_AMBIGUOUS = [text for text, value in SCALARS if not isinstance(value, str | list)] + ["2026-01-01", "1:30", "<<", "="]


@given(st.text(max_size=120) | st.sampled_from(_AMBIGUOUS) | st.from_regex(r"[-+.0-9_eExXoObB:]{1,8}", fullmatch=True))
def test_yaml_dumped_string_parsed_as_same_string(text):
    """`render` prints 1e3, yes or 0x10 so that kubectl reads a string and not a number."""
    printed = manifest_yaml.dump([{"kind": "X", "v": text, text: "w"}])
    expected = {"kind": "X", "v": text, text: "w"}
    assert documents(printed.encode()) == [expected]


LIST = "apiVersion: v1\nkind: List\nitems:\n"


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (LIST + "- {apiVersion: v1, kind: A}\n- {apiVersion: v1, kind: B}\n", ["A", "B"]),
        ("apiVersion: v1\nkind: CatList\nitems:\n- {metadata: {name: x}}\n", ["Cat"]),
        (LIST + "- {apiVersion: v1, kind: List, items: [{apiVersion: v1, kind: A}]}\n", ["A"]),
        (LIST, []),
        ("kind: A\n---\nkind: B\n", ["A", "B"]),
    ],
)
def test_resources_list_flattened(text, kinds):
    """Lists can be nested; items without a kind have the kind of the list."""
    assert [each["kind"] for each in manifests.resources(documents(text.encode()))] == kinds


@pytest.mark.parametrize(
    "text", ["a: 1", "kind: 1", "[]", "text", "kind: List\nitems: 1", "kind: List\nitems: [1]", LIST + "- {kind: A}"]
)
def test_resources_other_document_rejected(text):
    """kubectl rejects the whole file as well."""
    with pytest.raises(InvalidManifest):
        manifests.resources(documents(text.encode()))


def test_yaml_parser_is_libyaml():
    """go-yaml is a port of libyaml; PyYAML's own parser rejects tabs that kubectl accepts."""
    assert yaml.__with_libyaml__
