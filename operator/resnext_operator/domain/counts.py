"""Numbers with their noun, for messages."""


def counted(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`; for nouns with a regular plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
