"""The Compare page: several deltas side by side, against the full checkpoint."""

from app.pages.compare.page import ComparePage

__all__ = ["ComparePage"]
