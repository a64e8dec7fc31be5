"""Reads the bodies of edits: pictures to disk while they arrive, everything else bounded and in memory."""

from proxy.uploads.reading import Limits, Uploads

__all__ = ["Limits", "Uploads"]
