"""Operating a running instance: upgrades under load, handles, metrics."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.serve.conftest import Server
from tests.serve.test_bad_input import jpeg, packed, png
from tests.serve.test_failures import seconds_until, steady_load

pytestmark = pytest.mark.serve


def run_script(server: Server, path: Path) -> str:
    """Run a script as a user does beside the server: with the variables that it told."""
    done = subprocess.run(
        [sys.executable, str(path)],
        env=server.script_environment,
        cwd=path.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_script_calls_a_models_handle(server: Server, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    (tmp_path / "small.png").write_bytes(png(749, 600))
    script.write_text(
        "from pathlib import Path\n"
        "import ray\n"
        "from ray import serve\n"
        "ray.init(address='auto', log_to_driver=False)\n"
        "images = [Path('small.png').read_bytes()] * 3\n"
        "handle = serve.get_app_handle('image-example')\n"
        "print(handle.predict.remote(images).result())\n"
        "try:\n"
        "    serve.get_app_handle('colors').predict.remote([images[0], b'no image']).result()\n"
        "except Exception as error:\n"
        "    print(error)\n"
        "caller = serve.get_app_handle('caller')\n"
        "print(caller.sizes.remote(images).result())\n"
    )
    out = run_script(server, script)
    assert out.count("[(749, 600), (749, 600), (749, 600)]") == 2, out
    assert "[1]" in out


def test_handles_and_http_share_the_batcher(server: Server, tmp_path: Path) -> None:
    """Each is one item of a batch of two."""
    script = tmp_path / "script.py"
    script.write_text(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "import ray\n"
        "import requests\n"
        "from ray import serve\n"
        "ray.init(address='auto', log_to_driver=False)\n"
        "handle = serve.get_app_handle('counting')\n"
        "print(handle.predict.remote(['a', 'b']).result())\n"
        "with ThreadPoolExecutor() as pool:\n"
        f"    http = pool.submit(requests.post, '{server.url}/counting/invocations', json='a')\n"
        "    print(handle.predict.remote(['b']).result(), http.result().json())\n"
    )
    out = run_script(server, script)
    assert "[2, 2]\n[2] 2\n" in out


def metrics_text(server: Server) -> str:
    targets = httpx.get(
        f"{server.dashboard}/api/prometheus/sd", headers=server.headers, timeout=30
    ).json()
    addresses = [address for target in targets for address in target["targets"]]
    return "\n".join(httpx.get(f"http://{a}/metrics", timeout=30).text for a in addresses)


STAGES = ("queue", "decode", "batch_wait", "predict", "encode")

SERIES = {
    **{
        stage: rf'stage_seconds_bucket_total\{{[^}}]*application="yolov3"[^}}]*stage="{stage}"'
        for stage in STAGES
    },
    "batch size": r'batch_items_sum_total\{[^}]*application="yolov3"',
    "reason": r'batches_closed_total\{[^}]*application="yolov3"[^}]*reason="drained"',
    "status": r'responses_total\{[^}]*application="yolov3"[^}]*status="200"',
}


def test_metrics_of_every_stage(client: httpx.Client, server: Server) -> None:
    client.post("/yolov3/invocations", content=packed(jpeg(), jpeg())).raise_for_status()

    def missing() -> list[str]:
        text = metrics_text(server)
        return [
            name
            for name, series in SERIES.items()
            if not re.search(f"^ray_rayserve_{series}", text, re.MULTILINE)
        ]

    # Ray's agents hand metrics on every few seconds.
    seconds_until(lambda: not missing(), 60)


def test_requests_pass_serve_and_are_counted_by_it(client: httpx.Client, server: Server) -> None:
    """Where Serve names a request, the names have nothing in common."""

    def served() -> float:
        text = metrics_text(server)
        counts = re.findall(
            r'^ray_serve_num_http_requests_total\{[^}]*application="colors"[^}]*'
            r'method="GET"[^}]*status_code="404"[^}]*\} (\S+)',
            text,
            re.MULTILINE,
        )
        return sum(map(float, counts))

    before = served()
    names = [client.get("/colors/nowhere").headers["x-request-id"] for _ in range(25)]
    assert len(set(names)) == 25
    assert len({name[:-12] for name in names}) == 1
    seconds_until(lambda: served() >= before + 25, 60)
    assert served() == before + 25


def test_an_upgrade_under_load_fails_no_request(client: httpx.Client, server: Server) -> None:
    """Re-applying the YAML with one model changed."""
    server.application("image-example")["args"]["model"]["version"] = "2"
    with ExitStack() as stack:
        loads = {
            model: stack.enter_context(steady_load(server, f"/{model}/invocations", body))
            for model, body in (
                ("image-example", png()),
                ("image-example-string", png()),
                ("yolov3", packed(jpeg())),
            )
        }
        server.apply(server.config)
        seconds_until(lambda: client.get("/image-example").json()["version"] == "2", 90)
        # The old replica drains.
        time.sleep(5)
    assert {model: set(statuses) for model, statuses in loads.items()} == {
        model: {200} for model in loads
    }
    assert client.get("/image-example").json()["version"] == "2"
    names = [client.get("/image-example/nowhere").headers["x-request-id"] for _ in range(5)]
    assert len({name[:-12] for name in names}) == 1  # past Serve's wrapper, as before


def test_an_upgrade_with_slow_requests_in_flight_fails_none(
    client: httpx.Client, server: Server
) -> None:
    """The model that is upgraded takes 8 s for each request."""
    server.application("slow")["args"]["model"]["version"] = "2"
    with ExitStack() as stack:
        loads = []
        for _ in range(4):
            load = steady_load(server, "/slow/invocations", b"word", "text/plain")
            loads.append(stack.enter_context(load))
            time.sleep(1)
        server.apply(server.config)
        seconds_until(lambda: client.get("/slow").json()["version"] == "2", 90)
        # What was in flight at that moment ends on the old replica.
        time.sleep(9)
    assert [set(statuses) for statuses in loads] == [{200}] * 4


def replicas_of(server: Server, name: str) -> dict[str, str]:
    """Return the states of a model's replicas by their names."""
    replicas = server.applications()[name]["deployments"]["Model"]["replicas"]
    return {replica["replica_id"]: replica["state"] for replica in replicas}


def ask_for(server: Server, name: str, num_cpus: float) -> None:
    """Re-apply the YAML with another share for one model."""
    (deployment,) = server.application(name)["deployments"]
    deployment["ray_actor_options"] = {"num_cpus": num_cpus}
    server.apply(server.config)


def test_the_one_replica_of_a_model_serves_until_the_next_one_does(server: Server) -> None:
    """An update in which nothing but `num_cpus` changes."""
    (old,) = replicas_of(server, "image-example-string")
    seen: list[dict[str, str]] = []

    def is_replaced() -> bool:
        seen.append(replicas_of(server, "image-example-string"))
        return old not in seen[-1] and list(seen[-1].values()) == ["RUNNING"]

    with steady_load(server, "/image-example-string/invocations", png()) as statuses:
        ask_for(server, "image-example-string", 0.12)
        seconds_until(is_replaced, 90)
    assert set(statuses) == {200}
    assert any(len(states) == 2 for states in seen)
    assert all("RUNNING" in states.values() for states in seen), seen
    assert all(
        "RUNNING" in [state for name, state in states.items() if name != old]
        for states in seen
        if states.get(old) != "RUNNING"
    ), seen


def test_an_update_without_room_is_told_and_the_old_replica_serves_on(
    client: httpx.Client, server: Server
) -> None:
    (old,) = replicas_of(server, "image-example-string")
    ask_for(server, "image-example-string", 1.9)
    told = "image-example-string waits for room: a new replica asks for 1.9 CPU, of which "
    seconds_until(lambda: told in server.log.read_text(), 60)
    assert replicas_of(server, "image-example-string")[old] == "RUNNING"
    answer = client.post(
        "/image-example-string/invocations", content=png(), headers={"content-type": "image/png"}
    )
    assert answer.status_code == 200
    ask_for(server, "image-example-string", 0.1)
    told = "image-example-string does not wait for room any more."
    seconds_until(lambda: told in server.log.read_text(), 60)
    seconds_until(
        lambda: list(replicas_of(server, "image-example-string").values()) == ["RUNNING"], 60
    )
