"""The near end: where a machine is, whether to trust it, and one warm session with it."""
