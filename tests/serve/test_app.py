"""The deployed app over real HTTP."""

import time

import httpx2
from ray import serve

from tests.ray_cluster import Cluster, simulated_config


def test_the_app_is_ready_once_its_model_is_loaded_and_lists_it(cluster: Cluster) -> None:
    cluster.restart_app(simulated_config(load_s=10.0))
    url = f"http://127.0.0.1:{cluster.http_port}"
    assert httpx2.get(f"{url}/livez").status_code == 200
    early = httpx2.get(f"{url}/readyz")
    assert (early.status_code, early.json()["waiting_for"]) == (503, ["sim"])
    give_up_s = time.monotonic() + 30
    while httpx2.get(f"{url}/readyz").status_code != 200:
        assert time.monotonic() < give_up_s
        time.sleep(0.1)
    [model, _] = httpx2.get(f"{url}/v1/models").json()["data"]
    assert (model["id"], model["state"], model["engine"]) == ("sim", "ready", "simulated")


def test_a_request_id_comes_back_once(cluster: Cluster) -> None:
    cluster.deploy(simulated_config())
    answer = httpx2.get(f"http://127.0.0.1:{cluster.http_port}/nowhere", headers={"X-Request-ID": "mine"})
    assert answer.headers.get_list("X-Request-ID") == ["mine"]
    assert answer.json()["request_id"] == "mine"


def test_every_model_has_a_deployment_of_its_own(cluster: Cluster) -> None:
    config = simulated_config()
    config["applications"][0]["args"]["models"]["other-2.5"] = {"engine": "simulated"}
    config["applications"][0]["deployments"].append({"name": "vision-other-2.5", "ray_actor_options": {"num_cpus": 0}})
    cluster.restart_app(config)
    deployments = serve.status().applications["vidray"].deployments
    assert set(deployments) == {"gateway", "runner", "vision-sim", "vision-other-2.5"}
    models = httpx2.get(f"http://127.0.0.1:{cluster.http_port}/v1/models").json()["data"]
    assert [model["id"] for model in models] == ["sim", "other-2.5", "extractive"]
