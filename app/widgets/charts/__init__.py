"""Charts: painted ones import Qt alone, plots import pyqtgraph, which costs half a second: build those on first show."""
