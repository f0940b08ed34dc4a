"""A Ray cluster of this machine alone, for tests: deploys the config files that its standard input names."""

import sys
import time

import ray
from ray import serve
from ray.serve.scripts import cli

APPLICATION = "audioldm2"
ENDS = ("RUNNING", "DEPLOY_FAILED")
MOST_S = 120.0  # for a deployment


def main(temporary: str) -> None:
    """Print how each deployment ended, in a line. Take the cluster down when there is no more input."""
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=100 << 20,  # bytes
        namespace="serve",
        log_to_driver=False,
        _temp_dir=temporary,
    )
    for line in sys.stdin:
        start, wall = time.monotonic(), time.time()
        cli(["run", "--non-blocking", line.strip()], standalone_mode=False)
        while time.monotonic() - start < MOST_S:
            application = serve.status().applications[APPLICATION]
            if application.last_deployed_time_s >= wall and application.status in ENDS:
                break
            time.sleep(0.1)
        said = [application.message, *(deployment.message for deployment in application.deployments.values())]
        print("status", application.status.value, " ".join(" ".join(said).split()), flush=True)
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
