"""The demo model pair, what deepens it, and prompts to drive it."""
