"""The library page: every delta in a table, the selected one in a pane beside it."""

from app.pages.deltas.page import DeltasPage

__all__ = ["DeltasPage"]
