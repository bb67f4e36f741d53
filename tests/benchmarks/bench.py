"""All benchmarks: `make bench`, or `python tests/benchmarks/bench.py --only PART`, prints one table, writes bench.json.

Each of the files beside it can be run alone, too. What takes long or the whole machine is not among them: `end_to_end`
(twenty minutes), `serving_http`, `snapshots`, `defaults`.
"""

from __future__ import annotations

import commit
import engine
import freshness
import quality
import ranking
import scan
import scan_text
import serving_calls
import sources
from measure import main

SUITES = [
    *engine.SUITES, *scan.SUITES, *scan_text.SUITES, *sources.SUITES, *commit.SUITES, *ranking.SUITES,
    *serving_calls.SUITES, *quality.SUITES, *freshness.SUITES,
]  # fmt: skip

if __name__ == "__main__":
    main(SUITES, __doc__)
