"""The operator process: watches, cache, work queue, API client, leader election, metrics and settings."""
