"""Documents to weights."""
