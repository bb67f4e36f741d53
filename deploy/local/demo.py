"""`make demo`: takes the signals, then shows the tour. Apart, because the tour's imports take a second.

Ctrl-C must be clean at any moment, so it is caught before anything else is loaded.
"""

from __future__ import annotations

import sys

from workers.lifecycle import ExitCode, Shutdown


def main() -> int:
    """Run the demo; returns the exit status."""
    shutdown = Shutdown()
    shutdown.install()
    from deploy.local import tour  # noqa: PLC0415  numpy, rich, redis ...: see above

    return ExitCode.KILLED if shutdown.requested else tour.show(shutdown)


if __name__ == "__main__":
    sys.exit(main())
