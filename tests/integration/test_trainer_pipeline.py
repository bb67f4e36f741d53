"""The trainer's pipeline on a real Kafka and Redis: results do not depend on threads, a slow store slows reading."""

import time
from pathlib import Path

import pytest
from tcp_proxy import Proxy
from workbench import ctr, market_lines, metric, stored, trainer, wait_for

from ctr.store import connect
from workers.lifecycle import ExitCode
from workers.sinks import KafkaSink

SPEC = """
name = "ads"
generation = "{generation}"
fields = [{fields}]
[event]
label = "click"
time = "ts"
[model]
base_rate = 0.035
max_rows = 65536
[commit]
interval_ms = {interval_ms}
rows_per_s = {rows_per_s}
"""
MARKET = ("user", "segment", "region", "device", "site", "topic", "position", "hour", "ad", "campaign", "format")


@pytest.fixture
def spec(tmp_path):
    def write(generation, interval_ms=20, rows_per_s=0):
        path = tmp_path / f"{generation}.toml"
        fields = ", ".join(f'{{ name = "{name}" }}' for name in MARKET)
        path.write_text(
            SPEC.format(generation=generation, fields=fields, interval_ms=interval_ms, rows_per_s=rows_per_s)
        )
        return path

    return write


def memory_bytes(worker):
    """Resident memory of a worker."""
    status = Path(f"/proc/{worker._child.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmRSS"))


def test_rows_and_offsets_do_not_depend_on_scan_threads(kafka, redis_url, topic, spec, tmp_path):
    name, lines = topic(), market_lines(40_000)
    lines[1000:1000] = [b"broken"] * 7  # what is refused takes another way through the scanner
    sink = KafkaSink(kafka.bootstrap, name)
    for begin in range(0, len(lines), 700):  # record batches of many sizes
        sink.send(lines[begin : begin + 700], partition=0)
        sink.flush()
    sink.close()
    found = {}
    with connect(redis_url) as client:
        for threads in (0, 1, 4):
            worker = trainer(
                tmp_path / str(threads), spec(f"t{threads}"), "--kafka", kafka.bootstrap, "--topic", name,
                "--redis", redis_url, "--create", "--scan-threads", threads,
            )  # fmt: skip
            worker.start()
            at = {f"offset:{name}:0".encode(): str(len(lines)).encode()}
            wait_for(lambda threads=threads, at=at: stored(client, f"ads@t{threads}")[1] == at)
            assert metric(worker, "ctr_events_total", result="refused") == 7
            stages = {"fetch", "scan", "learn", "pack", "commit"}
            spent = {stage: metric(worker, "ctr_stage_seconds_total", stage=stage) for stage in stages}
            assert all(seconds > 0 for seconds in spent.values()), spent
            worker.stop()
            found[threads] = stored(client, f"ads@t{threads}")
    assert len(found[0][0]) > 1000
    assert found[1] == found[0]
    assert found[4] == found[0]


@pytest.mark.parametrize("stall_s", [6.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_a_store_that_stalls_stops_reading_and_loses_nothing(redis_server, redis_url, spec, tmp_path, stall_s):
    """What was sent during the stall arrives after it, from connections that were given up: the worst of late mail."""
    lines = market_lines(50_000)
    calm, data = tmp_path / "calm.jsonl", tmp_path / "events.jsonl"
    # as much as learning cannot finish in the time for which it goes on by itself
    calm.write_bytes((b"\n".join(lines) + b"\n") * 16)
    data.write_bytes(b"\n".join(lines[:100]) + b"\n")
    port = int(redis_server.url.split(":")[2].split("/")[0])
    proxy = Proxy(port)
    worker = trainer(
        tmp_path, spec("stalled"), "--from", data, "--follow", "--create",
        "--redis", f"redis://127.0.0.1:{proxy.port}/0",
    )  # fmt: skip
    worker.start()
    try:
        with connect(redis_url) as client:
            key = f"offset:{data}".encode()
            wait_for(lambda: int(stored(client, "ads@stalled")[1].get(key, b"0")) == data.stat().st_size)
            proxy.hold()
            with data.open("ab") as file, calm.open("rb") as whole:
                whole.seek(data.stat().st_size)
                file.write(whole.read())
            blocked = wait_for(lambda: metric(worker, "ctr_stage_wait_seconds_total", stage="learn", why="blocked"))
            before = read_now(worker)
            memory = memory_bytes(worker)
            time.sleep(stall_s)
            assert read_now(worker) == before, "nothing is read while the store stalls"
            waited = metric(worker, "ctr_stage_wait_seconds_total", stage="learn", why="blocked") - blocked
            assert waited > 0.9 * stall_s
            assert metric(worker, "ctr_commit_under_way_seconds") > 0.9 * stall_s
            assert metric(worker, "ctr_queue_bytes") < 40 << 20
            assert memory_bytes(worker) < memory + (20 << 20)
            proxy.release()
            wait_for(lambda: int(stored(client, "ads@stalled")[1][key]) == data.stat().st_size, within_s=120)
            worker.stop()
            arguments = ("train", spec("calm"), "--from", calm, "--redis", redis_url, "--create")
            assert ctr(*arguments).returncode == ExitCode.OK
            assert data.read_bytes() == calm.read_bytes()
            assert stored(client, "ads@stalled")[0] == stored(client, "ads@calm")[0]
    finally:
        proxy.release()
        worker.kill()
        proxy.close()


def read_now(worker):
    """Learned so far, what waits, and what is left."""
    events = metric(worker, "ctr_events_total", result="learned")
    return events, metric(worker, "ctr_queue_bytes"), metric(worker, "ctr_source_lag")


def test_a_slow_store_stretches_the_interval_and_changes_no_row(redis_server, redis_url, spec, tmp_path):
    data = tmp_path / "events.jsonl"
    data.write_bytes((b"\n".join(market_lines(20_000)) + b"\n") * 10)
    proxy = Proxy(int(redis_server.url.split(":")[2].split("/")[0]))
    proxy.bytes_per_s = 4e6
    worker = trainer(
        tmp_path, spec("slow"), "--from", data, "--follow", "--create", "--redis", f"redis://127.0.0.1:{proxy.port}/0"
    )
    worker.start()
    try:
        with connect(redis_url) as client:
            at = {f"offset:{data}".encode(): str(data.stat().st_size).encode()}
            settled = []

            def done():
                settled.append(metric(worker, "ctr_commit_interval_seconds"))
                return stored(client, "ads@slow")[1] == at

            wait_for(done, within_s=120)
            worker.stop()
            assert max(settled) > 0.2, "ten times the interval that was asked for"
            arguments = ("train", spec("calm"), "--from", data, "--redis", redis_url, "--create")
            assert ctr(*arguments).returncode == ExitCode.OK
            assert stored(client, "ads@slow")[0] == stored(client, "ads@calm")[0]
    finally:
        worker.kill()
        proxy.close()
