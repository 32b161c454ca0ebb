"""Fictitious authors, made up by rule, and a few general facts: data that needs no download."""
