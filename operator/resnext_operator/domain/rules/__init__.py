"""Rules: each says why something must end, when to check again, or nothing. None has side effects."""
