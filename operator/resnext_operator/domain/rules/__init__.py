"""Rules without side effects: each returns a reason to stop, a time to check again, or None."""
