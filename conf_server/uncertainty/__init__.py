"""Uncertainty of an answer, from one sequence, from samples or from what the model says.

Pure functions on `Evidence`: numpy only, no vLLM, no HTTP. `registry.METHODS` lists them.
"""
