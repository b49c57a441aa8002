"""What runs in the engine's own process: the scheduler and what it keeps."""
