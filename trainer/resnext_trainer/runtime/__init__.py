"""The processes of a training: launcher, worker and ranks, their communication, signals, watchdog and metrics."""
