"""Trained uncertainty heads: small networks that read what the model's layers make of an answer."""
