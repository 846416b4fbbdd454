"""Libraries of resnext-train in C, which it loads with ctypes. The trainer works without them, more slowly."""

from pathlib import Path

RECORD_READER = next(Path(__file__).parent.glob("record_reader.*so"), None)
"""The library of record_reader.c."""
