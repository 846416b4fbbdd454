"""YAML and JSON as kubectl reads a manifest: from the bytes of a file to values that JSON can express.

The reference is sigs.k8s.io/yaml (YAML 1.1 as go-yaml v2 resolves it, then JSON), behind the stream decoder of
k8s.io/apimachinery. PyYAML parses; which type a scalar has is decided here, because PyYAML reads 1e-4 as a string and
1:30 as a number.
"""

import base64
import binascii
import codecs
import json
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import yaml


class InvalidManifest(ValueError):
    """A text that kubectl cannot read; the message says where and why."""


def documents(data: bytes) -> list[Any]:
    """The documents of a file in order, without empty ones. Raises InvalidManifest."""
    text = _decoded(data)
    try:
        found = list(_stream(text) if text[:4096].lstrip().startswith("{") else _yaml_stream(text))
    except RecursionError:
        raise InvalidManifest("nested too deeply") from None
    return [document for document in found if document is not None]


def value(text: str) -> Any:
    """One value, as if it stood behind a key in a file. Raises InvalidManifest."""
    try:
        return _yaml_document(text)
    except RecursionError:
        raise InvalidManifest("nested too deeply") from None


def dump(documents: Iterable[Any], width: int = 80) -> str:
    """Documents as YAML that kubectl reads as the same values: a string such as 1e3 or yes is quoted."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=width)


class _Dumper(yaml.SafeDumper):
    pass


def _represented(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(_resolved(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represented)


def _decoded(data: bytes) -> str:
    """UTF-8, or UTF-16 with a byte order mark; bytes that are neither become U+FFFD."""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")


def _stream(text: str) -> Iterator[Any]:
    """JSON values one after the other; up to the second it may turn out to be YAML, as {a: 1} does."""
    decoder = json.JSONDecoder(parse_int=_json_number, parse_float=_json_number, parse_constant=_no_constant)
    at, count = 0, 0
    while rest := text[at:].lstrip(" \t\r\n"):
        start = len(text) - len(rest)
        try:
            document, at = decoder.raw_decode(text, start)
        except InvalidManifest:
            raise
        except ValueError as error:
            if count > 1:
                raise InvalidManifest(f"neither YAML nor JSON: {error}") from None
            line, newline, after = text[at:].partition("\n")
            yield from _yaml_stream(after if newline and not line.strip() else text[at:].lstrip())
            return
        count += 1
        yield _without_surrogates(document)


def _yaml_stream(text: str) -> Iterator[Any]:
    """Documents between lines that begin with ---, which may hold nothing else but a comment."""
    chunk, first = "", 1
    for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
        if line.startswith("---"):
            rest = line[3:].strip()
            if rest and not rest.startswith("#"):
                raise InvalidManifest(f"line {number}: {rest!r} follows ---: start the document on the next line")
            if chunk:
                yield _yaml_document(chunk, first)
                chunk, first = "", number + 1
                continue
        chunk += line.removesuffix("\r") + "\n"
    yield _yaml_document(chunk, first)


def _yaml_document(text: str, first_line: int = 1) -> Any:
    try:
        return _constructed(_composed(text))
    except yaml.MarkedYAMLError as error:
        # Parser errors have a mark; of the few that have none, there is no line to name.
        line: int | None = getattr(error.problem_mark or error.context_mark, "line", None)
        where = "" if line is None else f"line {first_line + line}: "
        raise InvalidManifest(f"neither YAML nor JSON: {where}{error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InvalidManifest(f"neither YAML nor JSON: {' '.join(str(error).split())}") from None


# Composition: events to nodes. Aliases stay visible, so that their expansion can be bounded.


@dataclass(eq=False)
class _Node:
    kind: str
    """scalar, sequence, mapping (keys and values in turn) or alias (of its only child)."""
    line: int
    text: str = ""
    plain: bool = False
    """Whether the type follows from the text."""
    tag: str = ""
    children: list["_Node"] = field(default_factory=list)


_PREFIX = "tag:yaml.org,2002:"


def _composed(text: str) -> _Node:
    """The first document of a text; what follows its end is ignored, as kubectl ignores it."""
    anchors: dict[str, _Node] = {}
    root = _Node("sequence", 0)
    open_nodes = [root]
    # libyaml, which go-yaml is a port of; PyYAML's own parser knows no tab between tokens.
    for event in yaml.parse(text, yaml.CSafeLoader):
        if isinstance(event, yaml.DocumentEndEvent):
            break
        if isinstance(event, yaml.CollectionEndEvent):
            open_nodes.pop()
            continue
        if not isinstance(event, yaml.NodeEvent):
            continue
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise _problem(_Node("alias", _line(event)), f"unknown anchor {event.anchor!r}")
            node = _Node("alias", _line(event), event.anchor, children=[anchors[event.anchor]])
        elif isinstance(event, yaml.ScalarEvent):
            tag = (event.tag or "!").replace(_PREFIX, "!!").removeprefix("!" * (event.tag in (None, "!")))
            node = _Node("scalar", _line(event), event.value, event.implicit[0] and not event.tag, tag)
        else:
            kind = "mapping" if isinstance(event, yaml.MappingStartEvent) else "sequence"
            node = _Node(kind, _line(event))
        if event.anchor and node.kind != "alias":
            anchors[event.anchor] = node
        open_nodes[-1].children.append(node)
        if node.kind in ("mapping", "sequence"):
            open_nodes.append(node)
    return root.children[0] if root.children else _Node("scalar", 0, plain=True)


def _line(event: yaml.Event) -> int:
    line: int = event.start_mark.line if event.start_mark else 0
    return line


# Construction: nodes to values.


@dataclass
class _Expansion:
    """What has been constructed so far, and how much of it through aliases: a bound on a billion laughs."""

    nodes: int = 0
    aliased: int = 0
    inside: list[_Node] = field(default_factory=list)

    def count(self, node: _Node) -> None:
        self.nodes += 1
        self.aliased += bool(self.inside)
        # go-yaml's bound: 99 % of a small document may come from aliases, 10 % of one of 4,000,000 nodes.
        share = 0.99 - 0.89 * min(max((self.nodes - 400_000) / 3_600_000, 0), 1)
        if self.aliased > 100 and self.nodes > 1000 and self.aliased > share * self.nodes:
            raise _problem(node, "aliases expand to too many values")


def _problem(node: _Node, text: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=text, problem_mark=yaml.Mark("", 0, node.line, 0, None, 0))


def _constructed(node: _Node) -> Any:
    return _value(node, _Expansion())


def _value(node: _Node, expansion: _Expansion) -> Any:
    expansion.count(node)
    match node.kind:
        case "alias":
            if node in expansion.inside:
                raise _problem(node, f"anchor {node.text!r} contains itself")
            expansion.inside.append(node)
            found = _value(node.children[0], expansion)
            expansion.inside.pop()
            return found
        case "sequence":
            return [_value(child, expansion) for child in node.children]
        case "mapping":
            found = {}
            _fill(found, node, expansion)
            return found
    return _as_json(_scalar(node))


def _fill(mapping: dict[str, Any], node: _Node, expansion: _Expansion) -> None:
    """In the order of the text: a later key wins over an earlier one, and so does a merge (<<)."""
    for key, child in zip(node.children[::2], node.children[1::2], strict=True):
        if key.kind == "scalar" and key.text == "<<" and (key.plain or key.tag == "!!merge"):
            _merge(mapping, child, expansion)
        else:
            expansion.count(key)
            name = _key(key.children[0] if key.kind == "alias" else key)
            mapping[name] = _value(child, expansion)


def _merge(mapping: dict[str, Any], node: _Node, expansion: _Expansion) -> None:
    sources = node.children[::-1] if node.kind == "sequence" else [node]
    for source in sources:
        target = source.children[0] if source.kind == "alias" else source
        if target.kind != "mapping":
            raise _problem(source, "<< needs a mapping or a list of mappings")
        if source.kind == "alias":
            mapping |= _value(source, expansion)
        else:
            expansion.count(source)
            _fill(mapping, source, expansion)


def _key(node: _Node) -> str:
    match key := _scalar(node) if node.kind == "scalar" else None:
        case str():
            return key
        case bool():
            return "true" if key else "false"
        case int() if abs(key) <= _INT64_MAX:
            return str(key)
        case float():
            return _single_precision(key)
    raise _problem(node, f"a key must be a string, not {json.dumps(key) if node.kind == 'scalar' else node.kind}")


def _single_precision(number: float) -> str:
    """A key that is a float, with as few digits as distinguish it in single precision."""
    try:
        single = struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        single = float("inf") if number > 0 else float("-inf")
    if single in (float("inf"), float("-inf")) or single != single:
        return {float("inf"): ".inf", float("-inf"): "-.inf"}.get(single, ".nan")
    digits = next(
        text
        for precision in range(9)
        if struct.pack("f", float(text := f"{single:.{precision}e}")) == struct.pack("f", single)
    )
    mantissa, _, exponent = digits.partition("e")
    if -4 <= int(exponent) < 6:
        places = max(len(mantissa.partition(".")[2]) - int(exponent), 0)
        return f"{float(digits):.{places}f}"
    return digits


# Scalars.

_INT64_MAX = 2**63 - 1
_BOOLEANS = {
    spelling: truth
    for words, truth in ((("y", "yes", "true", "on"), True), (("n", "no", "false", "off"), False))
    for word in words
    for spelling in (word, word.capitalize(), word.upper())
}
_NULLS = ("", "~", "null", "Null", "NULL")
_SPECIAL_FLOATS = {
    sign + spelling: sign + name
    for name, signs in (("nan", ("",)), ("inf", ("", "+", "-")))
    for sign in signs
    for spelling in (f".{name}", f".{name.upper()}", f".{'NaN' if name == 'nan' else 'Inf'}")
}
_INTEGER = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))")
_BASES = (16, 2, 8, 10)
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_FLOAT_AFTER_POINT = re.compile(r"\.[0-9]+(_[0-9]+)*([eE][-+]?[0-9]+(_[0-9]+)*)?")
_TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")


def _scalar(node: _Node) -> Any:
    if not node.plain and not node.tag:
        return node.text
    match node.tag:
        case "" | "!!bool" | "!!int" | "!!float" | "!!null" | "!!timestamp":
            found = _resolved(node.text)
        case "!!binary":
            found = _binary(node)
        case _:
            found = node.text
    if isinstance(found, float) and not _is_finite(found):
        raise _problem(node, f"{node.text}: JSON has no such number")
    wrong = {
        "!!bool": not isinstance(found, bool),
        "!!int": not isinstance(found, int) or isinstance(found, bool),
        "!!float": not isinstance(found, int | float) or isinstance(found, bool),
        "!!null": found is not None,
        "!!timestamp": not _TIMESTAMP.fullmatch(node.text),
    }
    if wrong.get(node.tag, False):
        raise _problem(node, f"cannot decode {node.text!r} as {node.tag}")
    return found


def _resolved(text: str) -> Any:
    """The type that a plain scalar has in go-yaml v2: no sexagesimals, and dates are strings."""
    if text in _NULLS:
        return None
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    if text in _SPECIAL_FLOATS:
        return float(_SPECIAL_FLOATS[text])
    if text.startswith("."):
        return _finite(text.replace("_", ""), text) if _FLOAT_AFTER_POINT.fullmatch(text) else text
    if text[0] not in "+-0123456789":
        return text
    plain = text.replace("_", "")
    if match := _INTEGER.fullmatch(plain):
        sign, *digits = match.groups()
        number = next(int(each, base) for each, base in zip(digits, _BASES, strict=True) if each)
        number = -number if sign == "-" else number
        if -_INT64_MAX - 1 <= number <= _INT64_MAX:
            return number
        if not sign and number < 2**64:
            return number
    return _finite(plain, text) if _FLOAT.fullmatch(plain) else text


def _finite(digits: str, text: str) -> float | str:
    """A number too large for a float is a string."""
    return number if _is_finite(number := float(digits)) else text


def _is_finite(number: float) -> bool:
    return number - number == 0


def _as_json(scalar: Any) -> Any:
    """90.0 is 90 in the JSON that kubectl sends to the API server, and an integer beyond 64 bits is a float."""
    match scalar:
        case float() if scalar.is_integer():
            whole = int(Decimal(repr(scalar)))
            return whole if -_INT64_MAX - 1 <= whole <= _INT64_MAX else scalar
        case int() if not -_INT64_MAX - 1 <= scalar <= _INT64_MAX:
            return float(scalar)
    return scalar


def _binary(node: _Node) -> str:
    try:
        return base64.b64decode(node.text.replace("\n", "").replace("\r", ""), validate=True).decode("utf-8", "replace")
    except binascii.Error:
        raise _problem(node, "!!binary is not base64") from None


# JSON.


def _json_number(text: str) -> int | float:
    if not _is_finite(number := float(text)):
        raise InvalidManifest(f"{text[:20]} is too large a number")
    exact: int | float = _as_json(int(text) if text.lstrip("-").isdecimal() and len(text) <= 20 else number)
    return exact


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _without_surrogates(document: Any) -> Any:
    """Half of a surrogate pair, which JSON can write and UTF-8 cannot, becomes U+FFFD."""
    match document:
        case str():
            return document.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [_without_surrogates(each) for each in document]
        case dict():
            return {_without_surrogates(key): _without_surrogates(each) for key, each in document.items()}
    return document
