"""Manifests of a training's objects, as functions of their arguments alone. Pure."""
