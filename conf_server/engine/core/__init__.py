"""What runs in the engine's own process, beside the scheduler."""
