"""An operator chooses the kernels' instruction set, and sees which one runs."""

import pytest
from click.testing import CliRunner
from workbench import ctr, logged, metric, scorer, trainer

from ctr.kernels import simd
from workers.cli import main
from workers.lifecycle import ExitCode

TOML = 'name = "ads"\nfields = [{ name = "user" }]\n'


@pytest.fixture
def files(tmp_path):
    (tmp_path / "ads.toml").write_text(TOML)
    (tmp_path / "events.jsonl").write_text('{"user": "u", "label": 1}\n' * 10)
    return tmp_path / "ads.toml", tmp_path / "events.jsonl"


@pytest.mark.slow  # compiles all kernels of two workers once more: a minute; tests/unit/kernels/test_isa.py is in CI
def test_workers_run_on_the_chosen_one_and_say_so(redis_url, files, tmp_path):
    spec, events = files
    done = ctr("train", spec, "--from", events, "--redis", redis_url, "--create")
    assert done.returncode == ExitCode.OK, done.stderr
    assert f'"isa": "{simd.BEST_ISA}"' in done.stderr + done.stdout
    redis = "--redis", redis_url, "--isa", "portable"
    for worker in (trainer(tmp_path, spec, "--from", events, "--follow", *redis), scorer(tmp_path, "ads", *redis)):
        worker.start()
        try:
            worker.wait_ready()
            assert metric(worker, "ctr_build_info", isa="portable") == 1.0
            assert "portable" in {line.get("isa") for line in logged(worker)}
        finally:
            worker.stop()


def test_what_this_processor_lacks_is_refused(files):
    spec, events = files
    for given, environment in ((("--isa", "sse9"), {}), ((), {"CTR_ISA": "sse9"})):
        for command in (("train", str(spec), "--from", str(events)), ("serve", "ads")):
            done = CliRunner().invoke(main, [*command, *given], env=environment)
            assert done.exit_code == ExitCode.SETTING, done.output
            assert f"--isa = 'sse9': this processor has {', '.join(simd.ISAS[:1])}" in done.output
