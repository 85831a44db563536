"""Compression jobs of the window: a queue, one worker thread, what the screen shows of a run. No Qt widgets here."""
