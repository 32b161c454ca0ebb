"""Lightning Unlearn: make a language model forget chosen data, and prove that it did."""

__version__ = "0.1.0"
