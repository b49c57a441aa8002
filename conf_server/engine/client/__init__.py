"""What runs in an API process: the engine's client, and the handling of the engine's outputs."""
