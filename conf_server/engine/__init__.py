"""The code that touches vLLM's private engine classes, one folder for each process it runs in.

`worker` runs beside the model, `core` beside the scheduler, `client` in the API processes. The
modules here are used by more than one of them, or before any of them starts.
"""
