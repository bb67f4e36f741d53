"""How good the predictions are, measured on events before they are learned, and whether they may be published."""

from ctr.quality.figures import Quality
from ctr.quality.guard import Finding, Guard
from ctr.quality.progressive import Progressive, quality_numbers
from ctr.quality.windows import WINDOWS, Windows

__all__ = ["WINDOWS", "Finding", "Guard", "Progressive", "Quality", "Windows", "quality_numbers"]
