"""Thinking many times and voting: the pure parts."""
