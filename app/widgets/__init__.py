"""Parts that pages are made of. They know themes, icons and words, never jobs or files."""
