"""Unlearning objectives: one LightningModule a file."""
