"""`deltadeck benchmark`: methods beside each other on one pair, at equal sizes."""
