"""Redis servers as tests need them beyond the plain one: with settings of their own, and a Cluster of masters."""

from __future__ import annotations

import time

import redis as redis_py

from ctr.store.keys import SLOTS
from deploy.local.process import HOST, free_port, listening
from deploy.local.redis import Redis


class Configured(Redis):
    """A server, or a sentinel, with settings of its own; ``{port}`` in one is its port."""

    def __init__(self, directory, settings, *, durable=False, sentinel=False):
        super().__init__(directory, free_port(), durable=durable)
        self._settings, self._sentinel = settings, sentinel

    def prepare(self):
        if self._sentinel:
            if not self._conf.exists():  # Sentinel writes into it
                self._conf.write_text("\n".join([f"port {self.port}", f"bind {HOST}", *self._settings]) + "\n")
            return
        super().prepare()
        with self._conf.open("a") as file:
            file.write("\n".join(line.format(port=self.port) for line in self._settings) + "\n")

    def command(self):
        return [*super().command(), *(["--sentinel"] if self._sentinel else [])]

    def ready(self):
        return listening(self.port)


class Masters:
    """A Cluster of masters without replicas; each node keeps its data and its place over restarts."""

    def __init__(self, directory, count=3):
        # Nodes talk to one another on the port + 10,000 otherwise: perhaps that of somebody's outgoing connection.
        self._buses = [free_port() for _ in range(count)]
        self.nodes = [
            Configured(
                directory / f"node{i}",
                ["cluster-enabled yes", "cluster-node-timeout 2000", f"cluster-port {bus}"], durable=True,
            )
            for i, bus in enumerate(self._buses)
        ]  # fmt: skip

    @property
    def url(self):
        """Two of the nodes are enough to find all."""
        return "redis+cluster://" + ",".join(f"{HOST}:{node.port}" for node in self.nodes[:2])

    def start(self):
        """Start every node and join them; the first time each takes its share of the slots."""
        for node in self.nodes:
            node.start()
        for i, node in enumerate(self.nodes):
            with redis_py.Redis(port=node.port) as raw:
                begin, end = (SLOTS * j // len(self.nodes) for j in (i, i + 1))
                raw.execute_command("CLUSTER ADDSLOTSRANGE", begin, end - 1)
                if i:
                    raw.execute_command("CLUSTER MEET", HOST, self.nodes[0].port, self._buses[0])
        until = time.monotonic() + 30
        while not all(map(self._whole, self.nodes)):
            assert time.monotonic() < until, "the Cluster does not come about"
            time.sleep(0.05)

    @staticmethod
    def _whole(node):
        with redis_py.Redis(port=node.port) as raw:
            return raw.execute_command("CLUSTER INFO")["cluster_state"] == "ok"

    def stop(self):
        """End every node."""
        for node in self.nodes:
            node.resume()
            node.stop()
