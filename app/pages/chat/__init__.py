"""The Chat page."""

from app.pages.chat.page import ChatPage

__all__ = ["ChatPage"]
