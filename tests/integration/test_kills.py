"""`ctr train` with sixteen shards, killed in mid-commit again and again: every row counts the events that touch it."""

from tcp_proxy import Proxy
from workbench import FIELDS, learned_counts, logged, market_lines, send, stored, touched, trainer, wait_for

from ctr.store import ShardKeys, connect

PARTITIONS, EVENTS, KILLS = 3, 24_000, 6


def send_evenly(kafka, topic, lines):
    for partition in range(PARTITIONS):
        send(kafka, topic, lines[partition::PARTITIONS], partition)


def is_ahead(client, shard):
    """Whether a commit is half done: this shard has its events, the last one not yet."""
    metas = [client.hgetall(ShardKeys("ads@1", number).meta) for number in (shard, 15)]
    mine, last = ({key: meta[key] for key in meta if key.startswith(b"offset:")} for meta in metas)
    return mine != last


def test_a_trainer_killed_in_mid_commit_counts_every_event_once(kafka, redis_server, redis_url, topic, spec, tmp_path):
    name, lines = topic(PARTITIONS), market_lines(EVENTS)
    proxy = Proxy(redis_server.client().connection_pool.connection_kwargs["port"])
    worker = trainer(
        tmp_path, spec, "--lease", "0.5", "--kafka", kafka.bootstrap, "--topic", name, "--create", "--redis",
        f"redis://127.0.0.1:{proxy.port}/0",
    )  # fmt: skip
    step = -(-EVENTS // (KILLS + 1))
    parts = [lines[begin : begin + step] for begin in range(0, EVENTS, step)]
    try:
        with connect(redis_url) as client:
            worker.start()
            proxy.bytes_per_s = 2e6  # a commit takes long enough to be met in its midst
            for part, shard in zip(parts[:-1], (0, 13, 7, 3, 10, 14), strict=True):
                send_evenly(kafka, name, part)
                wait_for(lambda shard=shard: is_ahead(client, shard), every_s=0.001)
                worker.kill()
                worker.start()
                proxy.lose_reply_to(b"EXEC")  # and what the connection had in it
            proxy.lose_request(b"EXEC")
            send_evenly(kafka, name, parts[-1])
            wait_for(lambda: sum(map(int, stored(client, "ads@1")[1].values())) == EVENTS)
            worker.stop()
            rows, offsets = stored(client, "ads@1")
    finally:
        worker.kill()
        proxy.close()
    assert sum(map(int, offsets.values())) == EVENTS
    recovered = [line for line in logged(worker) if line["event"] == "recovered"]
    assert len(recovered) == KILLS + 1
    # the last shard may have come in while a kill was on its way
    assert sum(not line["shards_level"] for line in recovered) >= KILLS - 1
    assert proxy.lost >= KILLS
    assert learned_counts(rows, len(FIELDS)) == touched(lines, FIELDS)
