"""The Run page: one job, from its plan to its delta."""

from app.pages.run.page import RunPage

__all__ = ["RunPage"]
