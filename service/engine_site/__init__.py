"""What the Python of an engine finds before vLLM; nothing else of ours is on its path."""
