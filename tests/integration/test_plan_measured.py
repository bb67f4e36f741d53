"""What `ctr doctor --plan` says of memory, against a real trainer and a real Redis."""

import json
from pathlib import Path

import pytest
from workbench import metric, trainer, wait_for

from ctr.store import connect
from workers import plan
from workers.plan import PlanSettings

FIELDS, EVENTS = 39, 4000
FEATURES = FIELDS * EVENTS
SPEC = f"""
name = "wide"
fields = [{", ".join(f'{{ name = "f{i}" }}' for i in range(FIELDS))}]
[event]
label = "y"
[model]
k = 4
max_rows = {FEATURES + 1000}
[store]
shards = 1
"""


def test_memory_of_trainer_and_redis_is_what_was_planned(redis_url, tmp_path):
    (tmp_path / "wide.toml").write_text(SPEC)
    with (tmp_path / "events.jsonl").open("w") as file:
        for i in range(EVENTS):
            file.write(json.dumps({**{f"f{f}": f"{f}-{i}" for f in range(FIELDS)}, "y": i % 2}) + "\n")
    with connect(redis_url) as client:
        client.memory_purge()
        before = client.info("memory")["used_memory"]
        worker = trainer(
            tmp_path, tmp_path / "wide.toml", "--create", "--from", tmp_path / "events.jsonl", "--follow",
            "--redis", redis_url,
        )  # fmt: skip
        worker.start()
        wait_for(lambda: client.hlen("ctr:{wide@1:0}:rows") > FEATURES)
        status = Path(f"/proc/{worker._child.pid}/status").read_text()
        resident = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS"))
        assert metric(worker, "ctr_table_rows") == FEATURES
        used = client.info("memory")["used_memory"] - before
        streams = client.memory_usage("ctr:{wide@1:0}:changes", samples=0)
        worker.stop()
    planned = plan.plan(PlanSettings(EVENTS, FEATURES))
    print(f"MB: trainer {resident / 1e6:.0f}, planned {planned.trainer_bytes / 1e6:.0f}; "
          f"Redis {used / 1e6:.0f} with streams of {streams / 1e6:.1f}, planned {planned.redis_bytes / 1e6:.0f}")
    assert planned.trainer_bytes == pytest.approx(resident, rel=0.25)
    rows = FEATURES * plan.redis_row_bytes(planned.row_bytes)
    assert rows == pytest.approx(used - streams, rel=0.05)
    assert planned.redis_bytes == pytest.approx(used - streams + plan.STREAM_BYTES, rel=0.25), "streams that are full"
