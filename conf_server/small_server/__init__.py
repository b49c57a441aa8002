"""A server without vLLM: the same routes for one model in this process, run by a `Backend`."""
