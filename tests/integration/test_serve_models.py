"""`ctr serve` with several models and a token, and settings that cannot be."""

import httpx
import numpy as np
import pytest
from test_serve import ONE_HOT, Publisher, process, wait_ready

from ctr.errors import SettingError
from deploy.local.process import free_port
from workers.serve import ServeSettings, read_token

pytestmark = pytest.mark.redis


def test_several_models_in_one_process(redis_url, tmp_path):
    """Each answers for itself; one that is pinned stays where it is when another generation goes live."""
    ads, video = Publisher(redis_url), Publisher(redis_url, ONE_HOT.replace('"ads"', '"video"'))
    rows = ads.rows(50)
    for publisher in (ads, video):
        publisher.learn(rows)
    token = tmp_path / "token"
    token.write_text("sesame\n")
    port = free_port()
    with process(
        "ads", "--model", "video", "--model", "video@1", "--redis", redis_url, "--listen", f"127.0.0.1:{port}",
        "--token-file", str(token), "--deadline", "2",
    ) as child:  # fmt: skip
        wait_ready(port, child)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
            assert client.get("/v1/models/ads").status_code == 401
            client.headers["authorization"] = "Bearer sesame"
            for publisher, name in ((ads, "ads"), (video, "video"), (video, "video@1")):
                got = client.post(f"/v1/models/{name}:predict", json={"instances": rows})
                np.testing.assert_allclose(got.json()["predictions"], publisher.predict(rows), rtol=0, atol=1e-6)
            found = client.get("/metrics").text
            assert all(f'ctr_store_up{{model="{name}"}} 1.0' in found for name in ("ads", "video", "video@1"))
        child.terminate()
        assert child.wait(10) == 0
        assert "sesame" not in child.stderr.read().decode()


def test_settings_that_cannot_be(tmp_path):
    with pytest.raises(SettingError, match="each model once"):
        ServeSettings(models=("ads", "ads"), redis="")
    with pytest.raises(SettingError, match="at least one model"):
        ServeSettings(models=(), redis="")
    assert "sesame" not in repr(ServeSettings(models=("ads",), redis="redis://:sesame@h", token="sesame"))
    for text in ("", "  \n", "two words", "\xe4"):
        (tmp_path / "token").write_text(text)
        with pytest.raises(SettingError, match="--token-file"):
            read_token(tmp_path / "token")
    with pytest.raises(SettingError, match="--token-file"):
        read_token(tmp_path / "none")
