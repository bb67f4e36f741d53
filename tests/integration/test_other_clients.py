"""A client that nobody here wrote gets right answers over the Open Inference Protocol: NVIDIA's tritonclient."""

import json
import subprocess
import sys

import numpy as np
import pytest
from test_serve import Publisher, served  # noqa: F401  a fixture

pytestmark = pytest.mark.redis

# In a process of its own: gevent, on which that client is built, changes much in the process that imports it.
SCRIPT = """
import json, sys
import numpy as np
import tritonclient.http as http

client, rows = http.InferenceServerClient(sys.argv[1]), json.load(sys.stdin)
told = {"live": client.is_server_live(), "ready": client.is_server_ready(), "model": client.is_model_ready("ads"),
        "absent": client.is_model_ready("nobody"), "metadata": client.get_model_metadata("ads")}
texts = {name: np.array([str(row.get(name, "")).encode() for row in rows], object) for name in ("user", "ad", "site")}
tensors = {**texts, "price": np.array([row["price"] for row in rows])}
inputs = []
for name, data in tensors.items():
    kind = "BYTES" if data.dtype == object else "FP64"
    inputs.append(http.InferInput(name, list(data.shape), kind))
    inputs[-1].set_data_from_numpy(data, binary_data=False)
told["predictions"] = client.infer("ads", inputs).as_numpy("predictions").tolist()
wanted = [http.InferRequestedOutput("predictions", binary_data=False)]
told["wanted"] = client.infer("ads", inputs, model_version="1", request_id="7", outputs=wanted).get_response()
try:
    client.infer("nobody", inputs)
except http.InferenceServerException as error:
    told["refused"] = [error.status(), error.message()]
print(json.dumps(told))
"""


def test_tritonclient(redis_url, served):  # noqa: F811
    publisher = Publisher(redis_url)
    publisher.learn(publisher.rows(2000))
    made = served(redis_url)
    rows = publisher.rows(30)
    url = made.http.base_url
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, f"{url.host}:{url.port}"], input=json.dumps(rows), capture_output=True,
        text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["live"], told["ready"], told["model"], told["absent"]) == (True, True, True, False)
    assert told["metadata"]["name"] == "ads"
    np.testing.assert_allclose(told["predictions"], publisher.predict(rows), rtol=0, atol=1e-6)
    assert told["wanted"]["id"] == "7"
    np.testing.assert_allclose(told["wanted"]["outputs"][0]["data"], told["predictions"], rtol=0, atol=1e-7)
    assert told["refused"][0] == "404"
    assert "nobody" in told["refused"][1]
