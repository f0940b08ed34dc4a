"""What the service on Ray rests on, where Ray is not installed: see tests/cli/test_ray.py for the rest."""

import asyncio
import subprocess
import sys

import httpx
import pytest

from runtime.install import install_command
from runtime.server.app import create_app
from runtime.server.service import Service
from tests.unit.helpers import ROOT, make_manifest

WITHOUT_RAY = """
import sys
sys.modules["ray"] = None
try:
    import runtime.server.ray_app
except ImportError as error:
    print(error)
"""


class Worker:
    """Takes everything, and renders nothing."""

    alive = True

    def check(self, **arguments: object) -> object:
        raise AssertionError


@pytest.mark.parametrize("path", ["/v1/audio/generate", "/v1/audio/speech"])
def test_jobs_can_be_refused(path: str) -> None:
    """In words, before anything is queued: another replica would not find the job."""
    app = create_app(Service(Worker()), make_manifest(), model="one", jobs=False)  # type: ignore[arg-type]

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.post(path, json={"input": "rain"}, headers={"Prefer": "respond-async"})

    answer = asyncio.run(ask())
    assert answer.status_code == 400
    assert "respond-async" in answer.json()["error"]["message"]


def test_without_ray_the_pip_line_is_told() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_RAY], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == f"ray is not installed: {install_command('ray')}\n"
