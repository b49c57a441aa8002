"""What runs in an API process: the engine's client and what it makes of the engine's outputs."""
