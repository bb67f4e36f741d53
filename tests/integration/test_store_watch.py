"""What may run out on a Redis, as the server says it: a replica that falls behind, memory that ends, one who cannot."""

import pytest
import structlog
from workbench import wait_for

from ctr.errors import SettingError
from ctr.store import connect, watch
from ctr.store.watch import Gauges
from deploy.local.process import free_port
from deploy.local.redis import Redis
from workers.store_watch import StoreWatch

CALM = Gauges(1000, 0, 0, 0, 1 << 20, 0, 0)


@pytest.fixture
def pair(tmp_path):
    """A server and its replica."""
    made = [Redis(tmp_path / name, free_port()) for name in ("master", "replica")]
    for server in made:
        server.start()
    with made[1].client() as client:
        client.replicaof("127.0.0.1", made[0].port)
        wait_for(lambda: client.info("replication")["master_link_status"] == "up")
    yield made
    for server in made:
        server.resume()
        server.stop()


def test_a_replica_that_falls_behind_and_a_server_that_fills_up(pair):
    master, replica = pair
    with connect(master.url) as client, structlog.testing.capture_logs() as logs:
        watched = StoreWatch(lambda: watch.look(client))
        watched.turn()
        [server] = watch.look(client)
        assert server == f"127.0.0.1:{master.port}"
        assert watched.numbers()["ctr_redis_replicas"] == {(server,): 1.0}
        assert watched.numbers()["ctr_redis_backlog_bytes"] == {(server,): float(1 << 20)}
        assert logs == []
        replica.pause()
        for i in range(20):
            client.set(f"x{i}", b"x" * 100_000)
        client.config_set("maxmemory", 4_000_000)
        for _ in range(2):
            watched.turn()
        assert watched.numbers()["ctr_redis_behind_bytes"][server,] > 2_000_000
        assert watched.numbers()["ctr_redis_memory_limit_bytes"] == {(server,): 4e6}
    assert [(line["event"], line["server"]) for line in logs] == [("store_strained", server)] * 2, "each said once"
    assert "raise repl-backlog-size" in logs[1]["reason"]
    assert "of maxmemory 4 MB" in logs[0]["reason"]


def test_one_who_may_not_ask_goes_on_without(pair):
    with connect(pair[0].url) as client:
        client.acl_setuser("mute", enabled=True, passwords=["+pw"], keys=["ctr:*"], commands=["+@all", "-info"])
    with connect(f"redis://mute:pw@127.0.0.1:{pair[0].port}/0") as client:
        with pytest.raises(SettingError):
            watch.look(client)
        watched = StoreWatch(lambda: watch.look(client))
        watched.turn()
    assert all(value == {} for value in watched.numbers().values())


@pytest.mark.parametrize(
    ("gauges", "said"),
    [
        (CALM, []),
        (Gauges(91, 100, 0, 0, 0, 0, 0), ["maxmemory"]),
        (Gauges(89, 100, 0, 0, 0, 0, 0), []),
        (Gauges(1, 0, 1, 600, 1000, 0, 0), ["backlog"]),
        (Gauges(1, 0, 1, 400, 1000, 0, 0), []),
        (Gauges(1, 0, 0, 0, 0, 300 << 20, 0), ["output buffer"]),
        (Gauges(1, 0, 0, 0, 0, 0, 2), ["2 clients were cut off"]),
    ],
)
def test_what_is_said_of_a_server(gauges, said):
    found = list(gauges.warnings(CALM))
    assert len(found) == len(said)
    assert all(word in warning for word, warning in zip(said, found, strict=True))
    assert not list(gauges.warnings(gauges)) or gauges.clients_cut == 0, "clients cut off earlier are no news"
