"""Parses YAML and JSON manifests as kubectl does, into values that JSON can express.

The reference is sigs.k8s.io/yaml (YAML 1.1 as go-yaml v2 resolves it, then JSON), behind the stream decoder of
k8s.io/apimachinery. PyYAML parses; `yaml_scalars` decides which type a scalar has, because PyYAML reads 1e-4 as a
string and 1:30 as a number.
"""

import base64
import binascii
import codecs
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from resnext_trainer.config import yaml_scalars


class InvalidManifest(ValueError):
    """kubectl cannot parse the text; the message names the line and the problem."""


def documents(data: bytes) -> list[Any]:
    """The documents of a file in order, without empty ones. Raises InvalidManifest."""
    text = _decoded(data)
    try:
        found = list(_stream(text) if text[:4096].lstrip().startswith("{") else _yaml_stream(text))
    except RecursionError:
        raise InvalidManifest("nested too deeply") from None
    return [document for document in found if document is not None]


def value(text: str) -> Any:
    """A single value, parsed as the value of a key. Raises InvalidManifest."""
    try:
        return _yaml_document(text)
    except RecursionError:
        raise InvalidManifest("nested too deeply") from None


def dump(documents: Iterable[Any], width: int = 80) -> str:
    """Documents as YAML that kubectl parses to the same values: strings such as 1e3 or yes are quoted."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, width=width)


class _Dumper(yaml.SafeDumper):
    pass


def _represented(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    style = None if isinstance(yaml_scalars.resolve(text), str) else "'"
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style)


_Dumper.add_representer(str, _represented)


def _decoded(data: bytes) -> str:
    """UTF-8, or UTF-16 with a byte order mark; bytes that are neither become U+FFFD."""
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, "replace")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "replace")


def _stream(text: str) -> Iterator[Any]:
    """Consecutive JSON values. Text in which the first or second value is not JSON, such as {a: 1}, is parsed as
    YAML."""
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
    """Documents separated by lines that start with ---; such a line may contain only a comment."""
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
        # Errors of the parser have a mark; others have no line to report.
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
    """The first document of a text. Text after its end is ignored, as in kubectl."""
    anchors: dict[str, _Node] = {}
    root = _Node("sequence", 0)
    open_nodes = [root]
    # libyaml, of which go-yaml is a port; the Python parser of PyYAML does not support tabs between tokens.
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
    """Number of constructed nodes, in total and from aliases, to detect a billion laughs attack."""

    nodes: int = 0
    aliased: int = 0
    inside: list[_Node] = field(default_factory=list)

    def count(self, node: _Node) -> None:
        self.nodes += 1
        self.aliased += bool(self.inside)
        # The limit of go-yaml: 99 % of a small document may come from aliases, 10 % of one of 4,000,000 nodes.
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
    return yaml_scalars.as_json(_scalar(node))


def _fill(mapping: dict[str, Any], node: _Node, expansion: _Expansion) -> None:
    """Keys and merges (<<) are applied in the order of the text: later values override earlier ones."""
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
        case int() if abs(key) <= yaml_scalars.INT64_MAX:
            return str(key)
        case float():
            return yaml_scalars.float_key(key)
    raise _problem(node, f"a key must be a string, not {json.dumps(key) if node.kind == 'scalar' else node.kind}")


def _scalar(node: _Node) -> Any:
    if not node.plain and not node.tag:
        return node.text
    match node.tag:
        case "" | "!!bool" | "!!int" | "!!float" | "!!null" | "!!timestamp":
            found = yaml_scalars.resolve(node.text)
        case "!!binary":
            found = _binary(node)
        case _:
            found = node.text
    if isinstance(found, float) and not yaml_scalars.is_finite(found):
        raise _problem(node, f"{node.text}: JSON does not support this number: use a finite one")
    wrong = {
        "!!bool": not isinstance(found, bool),
        "!!int": not isinstance(found, int) or isinstance(found, bool),
        "!!float": not isinstance(found, int | float) or isinstance(found, bool),
        "!!null": found is not None,
        "!!timestamp": not yaml_scalars.TIMESTAMP.fullmatch(node.text),
    }
    if wrong.get(node.tag, False):
        raise _problem(node, f"cannot decode {node.text!r} as {node.tag}")
    return found


def _binary(node: _Node) -> str:
    try:
        return base64.b64decode(node.text.replace("\n", "").replace("\r", ""), validate=True).decode("utf-8", "replace")
    except binascii.Error:
        raise _problem(node, "!!binary is not base64") from None


# JSON.


def _json_number(text: str) -> int | float:
    if not yaml_scalars.is_finite(number := float(text)):
        raise InvalidManifest(f"number {text[:20]} is out of range")
    exact: int | float = yaml_scalars.as_json(int(text) if text.lstrip("-").isdecimal() and len(text) <= 20 else number)
    return exact


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _without_surrogates(document: Any) -> Any:
    """Replace unpaired surrogates, which JSON can express and UTF-8 cannot, with U+FFFD."""
    match document:
        case str():
            return document.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [_without_surrogates(each) for each in document]
        case dict():
            return {_without_surrogates(key): _without_surrogates(each) for key, each in document.items()}
    return document
