"""Framing of a record in a TFRecord file: its length (8 bytes), the checksum of the length (4), its content, and the
checksum of the content (4)."""

import struct

import google_crc32c

HEADER, FOOTER = 12, 4
"""Bytes before and after the content."""


def checksum(content: bytes) -> int:
    """CRC-32C, masked as in the TFRecord format."""
    crc: int = google_crc32c.value(content)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def is_header(header: bytes) -> bool:
    """Whether these bytes are a record header: a length and its checksum."""
    return len(header) == HEADER and checksum(header[:8]) == struct.unpack_from("<I", header, 8)[0]


def is_intact(record: bytes, length: int) -> bool:
    """Whether these bytes are a whole record of `length` bytes, with the right checksums."""
    return (
        len(record) == length
        and is_header(record[:HEADER])
        and struct.unpack_from("<Q", record)[0] == length - HEADER - FOOTER
        and checksum(record[HEADER:-FOOTER]) == struct.unpack("<I", record[-FOOTER:])[0]
    )
