"""How to learn: search space, measurement, comparison, and the `tuner` command line."""
