"""The page on which a pair is picked, planned and sent off."""

from app.pages.compress.page import CompressPage

__all__ = ["CompressPage"]
