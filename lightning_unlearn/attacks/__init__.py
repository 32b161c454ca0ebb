"""Attacks that try to bring back what a model was made to forget."""
