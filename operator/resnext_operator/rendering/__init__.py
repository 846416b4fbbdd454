"""Renders the manifests of a training's objects. Every function is pure: same arguments, same manifest."""
