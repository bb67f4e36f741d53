"""How good the predictions are, measured on events before they are learned."""

from ctr.quality.progressive import Quality, Window

__all__ = ["Quality", "Window"]
