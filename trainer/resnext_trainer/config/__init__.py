"""The configuration: models, rules between fields, presets, loading. Needs pydantic and PyYAML only."""
