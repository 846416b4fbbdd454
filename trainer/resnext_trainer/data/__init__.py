"""Datasets and the input pipeline: shards and folders, sampling, crops, decoding, preparation and validation."""
