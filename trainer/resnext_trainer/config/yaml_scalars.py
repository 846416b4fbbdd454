"""The type of a YAML scalar, as go-yaml v2 resolves it, and its value in JSON. Pure."""

import re
import struct
from decimal import Decimal
from typing import Any

INT64_MAX = 2**63 - 1
"""The largest integer that kubectl sends as an integer in JSON."""

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
TIMESTAMP = re.compile(r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([Tt ].*)?")
"""A date or a time; it resolves to a string."""


def resolve(text: str) -> Any:
    """A plain scalar as None, bool, int, float (including infinity and NaN) or str. Sexagesimals and dates are str."""
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
        if -INT64_MAX - 1 <= number <= INT64_MAX:
            return number
        if not sign and number < 2**64:
            return number
    return _finite(plain, text) if _FLOAT.fullmatch(plain) else text


def _finite(digits: str, text: str) -> float | str:
    """A number too large for a float is a string."""
    return number if is_finite(number := float(digits)) else text


def is_finite(number: float) -> bool:
    """Whether JSON can express the number."""
    return number - number == 0


def as_json(scalar: Any) -> Any:
    """The scalar as kubectl sends it to the API server: 90.0 is 90, and an integer beyond 64 bits is a float."""
    match scalar:
        case float() if scalar.is_integer():
            whole = int(Decimal(repr(scalar)))
            return whole if -INT64_MAX - 1 <= whole <= INT64_MAX else scalar
        case int() if not -INT64_MAX - 1 <= scalar <= INT64_MAX:
            return float(scalar)
    return scalar


def float_key(number: float) -> str:
    """The text of a key that is a float: the shortest decimal that is unique in single precision."""
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
