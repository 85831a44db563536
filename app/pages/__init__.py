"""The pages of the window, one module or package each. A page knows the context it is given, not the other pages."""
