"""Scripts that made the files of `resources/`; nothing here runs in the program."""
