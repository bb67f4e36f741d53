"""The table (key -> row) and the model that learns in it. See `ctr.kernels` for the formulas."""

import copyreg

from ctr.kernels.layout import BIAS_KEY, RESERVED_KEYS
from ctr.model import snapshot
from ctr.model.model import Model
from ctr.model.state import Counts
from ctr.rows import RowBlock

__all__ = ["BIAS_KEY", "RESERVED_KEYS", "Counts", "Model", "RowBlock"]

copyreg.pickle(Model, snapshot.pickled)
