"""The deltas that the user keeps: listed, checked, moved, and what this program remembers of them."""
