"""Chat without its widgets: the loaded deck on a thread of its own, and conversations that are kept."""
