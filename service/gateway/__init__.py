"""The data plane: forwards bytes, holds requests while an engine is replaced, keeps no text."""
