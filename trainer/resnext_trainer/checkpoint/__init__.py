"""Checkpoints: storage, selection, locking, resumption and warm start."""
