"""Weights trained by this project, and their exported files; installed as `effvision.weights`.

`index.toml` gives each file's sha256, licence and provenance. This module holds no code: read the files through
`importlib.resources.files("effvision.weights")` or, better, through `effvision.checkpoints`.
"""
