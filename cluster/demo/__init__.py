"""The demo model: a tiny llama that ships with Tandem, so that the first run works offline.

scripts/train_demo_model.py makes the files beside this module.
"""

from pathlib import Path


def folder() -> Path:
    """The folder that holds the demo model's files, ready for mlx-lm to load."""
    return Path(__file__).resolve().parent
