"""What is known: knobs, classes, platforms, measurements, profiles, and where they are kept."""
