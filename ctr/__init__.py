"""Online-learned click-through rates: factorization machines that learn from a stream, and scorers that follow them."""

__version__ = "0.1.0"
