"""Qt item models: each is the one source of several views, through proxies."""
