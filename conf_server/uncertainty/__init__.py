"""Uncertainty of an answer, from its tokens, from samples or from what the model says of it.

The estimators are pure functions of `Evidence`. They use numpy and nothing else: no vLLM, no
torch, no HTTP. `registry.METHODS` lists them.
"""
