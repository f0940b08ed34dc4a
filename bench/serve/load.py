"""The load: requests to a server at times of a plan, or back to back, and when each of them was answered."""

import asyncio
import re
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import aiohttp

from bench.serve.plan import ENDPOINT, Body, Planned

PAUSE_S = 0.1  # of a client in a closed loop that was refused
LONGEST_S = 600.0  # that an answer is waited for
WAV_HEADER = 44  # bytes before the samples
NO_SOUND = "no sound"  # the status of an answer that says 200 and holds no sound

clock = time.perf_counter


@dataclass(frozen=True)
class Answer:
    """What became of a request: an HTTP status, or the name of the error that ended it. Times are of `clock`."""

    status: str
    planned_s: float  # when it was to be sent
    sent_s: float
    first_byte_s: float
    done_s: float
    queue_s: float | None = None  # as the server says
    audio_s: float = 0.0

    @property
    def served(self) -> bool:
        """Whether it brought a sound."""
        return self.status == "200"


class Client:
    """One server's client. It opens as many connections as there are requests at a time: none waits for another."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self._url, self._headers = url.rstrip("/") + ENDPOINT, {"Authorization": f"Bearer {key}"} if key else {}

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=LONGEST_S),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def ask(self, body: Body, planned_s: float | None = None) -> Answer:
        """Send a request now. What goes wrong is the answer's status, and no exception."""
        sent_s = first_byte_s = clock()
        planned_s = sent_s if planned_s is None else planned_s
        try:
            async with self._session.post(self._url, json=body) as response:
                first_byte_s = clock()
                sound = await response.read()
                done_s, status = clock(), str(response.status)
                timing = response.headers.get("Server-Timing", "")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            return Answer(type(error).__name__, planned_s, sent_s, first_byte_s, clock())
        audio_s = wav_seconds(sound)
        if status == "200" and not audio_s:
            status = NO_SOUND
        return Answer(status, planned_s, sent_s, first_byte_s, done_s, queue_seconds(timing), audio_s)


async def open_loop(client: Client, plan: Sequence[Planned]) -> list[Answer]:
    """Send each request when it is planned, whether or not others are answered, and wait for all answers."""
    start, asked = clock(), []
    for planned in plan:
        at_s = start + planned.at_s
        await asyncio.sleep(at_s - clock())
        asked.append(asyncio.create_task(client.ask(planned.body, at_s)))
    return await asyncio.gather(*asked)


async def closed_loop(client: Client, bodies: Iterator[Body], clients: int, seconds: float) -> list[Answer]:
    """So many clients, each of which asks again as soon as it has its sound, until the time is over."""
    end, answers = clock() + seconds, []

    async def one() -> None:
        while clock() < end:
            answers.append(answer := await client.ask(next(bodies)))
            if not answer.served:
                await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(one() for _ in range(clients)))
    return answers


def queue_seconds(server_timing: str) -> float | None:
    """How long a call waited, from the header Server-Timing; None where it does not tell."""
    found = re.search(r"\bqueue;dur=([0-9.]+)", server_timing)
    return float(found[1]) / 1000 if found else None


def wav_seconds(sound: bytes) -> float:
    """The length of a WAV file of which nothing but its samples follows the header; 0 of anything else."""
    if len(sound) < WAV_HEADER or not sound.startswith(b"RIFF"):
        return 0.0
    bytes_a_second: int = struct.unpack_from("<I", sound, 28)[0]
    return (len(sound) - WAV_HEADER) / bytes_a_second if bytes_a_second else 0.0
