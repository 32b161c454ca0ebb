"""Unlearning metrics: one torchmetrics.Metric a file, each with a pure functional twin."""
