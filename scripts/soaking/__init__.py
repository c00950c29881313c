"""`scripts/soak`: random faults under continuous traffic, and what must hold all the time."""
