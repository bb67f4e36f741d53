"""Two addresses to scrape go in, a real Prometheus server comes out: configuration and rules of every deployment."""

from __future__ import annotations

import shutil
from pathlib import Path

from deploy.local.process import HOST, Service, ServiceError, ServiceMissingError, http_ok

TEMPLATE = Path(__file__).parents[1] / "prometheus" / "prometheus.yml"
RULES = ("recording.yml", "alerts.yml")


class Prometheus(Service):
    """Prometheus, scraping a trainer and a scorer.

    Parameters
    ----------
    directory : Path
        Configuration and time series.
    port : int
    targets : dict[str, str]
        The host:port names that stand in prometheus.yml -> where these are on this machine.
    """

    def __init__(self, directory: Path, port: int, targets: dict[str, str], *, tied: bool = True) -> None:
        super().__init__("prometheus", directory, port, tied=tied)
        self.targets = targets

    @property
    def address(self) -> str:
        """URL of the web interface."""
        return f"http://{HOST}:{self.port}"

    def prepare(self) -> None:
        """Write the shared configuration, this machine's addresses in the place of the host names, and the rules."""
        text = TEMPLATE.read_text()
        for name, address in self.targets.items():
            if name not in text:
                raise ServiceError(f"{TEMPLATE} has no target {name}")
            text = text.replace(name, address)
        self._config.write_text(text)
        for name in RULES:
            shutil.copyfile(TEMPLATE.with_name(name), self.directory / name)

    def command(self) -> list[str]:
        """Run prometheus in the foreground on loopback."""
        binary = shutil.which("prometheus")
        if binary is None:
            raise ServiceMissingError("no prometheus: install it (`deploy/setup.sh services`)")
        return [
            binary,
            f"--config.file={self._config}",
            f"--storage.tsdb.path={self.directory / 'series'}",
            f"--web.listen-address={HOST}:{self.port}",
        ]

    def ready(self) -> bool:
        """Ask Prometheus whether it serves queries."""
        return http_ok(self.port, "/-/ready")

    @property
    def _config(self) -> Path:
        return self.directory / "prometheus.yml"
