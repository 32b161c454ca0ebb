"""Evaluation protocols: data, metrics and an aggregate."""
