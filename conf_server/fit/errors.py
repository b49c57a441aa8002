"""What keeps a fit from being made."""

from __future__ import annotations


class FitError(ValueError):
    """The texts are not enough, or not of the kind, for what was asked. The message says why."""
