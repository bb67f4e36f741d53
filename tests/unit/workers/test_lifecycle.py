"""Bounded retries, shared deadlines, signals, exit codes."""

import os
import signal
import subprocess
import sys
import time

import pytest

from ctr import errors
from workers.lifecycle import Deadline, ExitCode, Shutdown, exit_code, retry


class Failing:
    """Fails `times` times, then answers."""

    def __init__(self, times, error=errors.StoreUnavailableError):
        self.left, self.error, self.calls = times, error, 0

    def __call__(self):
        self.calls += 1
        if self.left:
            self.left -= 1
            raise self.error("down")
        return "up"


def silent(_error, _pause):
    """Nobody is told."""


def test_a_retriable_error_is_tried_again_and_told():
    told = []
    action = Failing(2)
    failed = lambda _error, pause: told.append(pause)  # noqa: E731  a word shorter than a function
    assert retry(action, limit_s=30, shutdown=Shutdown(), grace_s=1, failed=failed) == "up"
    assert action.calls == 3
    assert told == [0.1, 0.2], "the pause doubles"


def test_another_error_is_not_tried_again():
    action = Failing(9, errors.FencedError)
    with pytest.raises(errors.FencedError):
        retry(action, limit_s=30, shutdown=Shutdown(), grace_s=1, failed=silent)
    assert action.calls == 1


def test_the_limit_ends_it():
    began = time.monotonic()
    with pytest.raises(errors.StoreUnavailableError):
        retry(Failing(10**9), limit_s=0.3, shutdown=Shutdown(), grace_s=1, failed=silent)
    assert time.monotonic() - began < 5


def test_a_stop_ends_it_within_the_grace_but_not_before():
    shutdown = Shutdown()
    shutdown.request()
    assert retry(Failing(1), limit_s=600, shutdown=shutdown, grace_s=2, failed=silent) == "up"
    began = time.monotonic()
    with pytest.raises(errors.StoreUnavailableError):
        retry(Failing(10**9), limit_s=600, shutdown=shutdown, grace_s=0.3, failed=silent)
    assert time.monotonic() - began < 5


def test_a_deadline_is_one_budget():
    deadline = Deadline(0.05)
    assert 0 < deadline.remaining <= 0.05
    time.sleep(0.06)
    assert deadline.expired
    assert deadline.remaining == 0


SCRIPT = """
import sys, time
from workers.lifecycle import Shutdown
shutdown = Shutdown()
shutdown.install()
print("ready", flush=True)
while not shutdown.requested:
    time.sleep(0.01)
print("draining", flush=True)
time.sleep(30 if sys.argv[1] == "slow" else 0)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_first_signal_drains(number):
    with subprocess.Popen([sys.executable, "-c", SCRIPT, "quick"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == b"draining\n"
        assert process.wait(10) == 0


def test_the_second_signal_ends_at_once():
    with subprocess.Popen([sys.executable, "-c", SCRIPT, "slow"], stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == b"draining\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == ExitCode.KILLED


def test_every_error_that_ends_a_worker_has_a_code_of_its_own_kind():
    assert exit_code(errors.SettingError("k", 1, "x")) == ExitCode.SETTING
    assert (
        exit_code(errors.StoreUnavailableError()) == exit_code(errors.SourceUnavailableError()) == ExitCode.UNAVAILABLE
    )
    assert exit_code(errors.ModelMissingError()) == exit_code(errors.ModelMismatchError()) == ExitCode.MODEL
    assert exit_code(errors.FencedError()) == ExitCode.FENCED
    assert exit_code(errors.PositionLostError()) == ExitCode.POSITION
    assert exit_code(errors.PortInUseError()) == ExitCode.PORT
    assert os.EX_OK == ExitCode.OK
