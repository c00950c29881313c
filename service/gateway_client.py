"""tunerd's side of the gateway's admin interface."""

from pathlib import Path
from typing import Any, TypedDict

import aiohttp

from profiles.errors import UnavailableError

_TIMEOUT = aiohttp.ClientTimeout(total=10)


class EngineRoute(TypedDict):
    """Where the gateway forwards to."""

    socket: str
    token: str
    profile: str
    # our profile turned speculation on: min_p and logit_bias would get 400 from vLLM
    refuses_plain: bool


class GatewayClient:
    """Routes, drains and reads records; every call raises UnavailableError if nobody answers."""

    def __init__(self, socket: Path) -> None:
        self._session = aiohttp.ClientSession(
            "http://gateway", connector=aiohttp.UnixConnector(path=str(socket))
        )

    async def state(self) -> dict[str, Any]:
        """Gate, engine, requests in flight and held, counters."""
        return await self._call("GET", "/state")

    async def route(
        self,
        *,
        gate: str,
        reason: str,
        engine: EngineRoute | None,
        eta_s: float | None = None,
        ttl_s: float | None = None,
    ) -> dict[str, Any]:
        """Put a route in force; `ttl_s` lets a hold end by itself if we die."""
        return await self._call(
            "PUT",
            "/route",
            json={
                "gate": gate,
                "reason": reason,
                "engine": engine,
                "eta_s": eta_s,
                "ttl_s": ttl_s,
            },
        )

    async def drain(self, deadline_s: float) -> int:
        """Wait until nothing is in flight; the number of requests that still are."""
        timeout = aiohttp.ClientTimeout(total=deadline_s + 10)
        answer = await self._call(
            "POST", "/drain", json={"deadline_s": deadline_s}, timeout=timeout
        )
        return int(answer["in_flight"])

    async def cut(self) -> int:
        """End what is still in flight, with an error for each; how many there were."""
        return int((await self._call("POST", "/cut"))["cut"])

    async def records(self, after: int, wait_s: float) -> dict[str, Any]:
        """Finished requests since `after`, waiting for at least one."""
        return await self._call(
            "GET",
            "/records",
            params={"after": str(after), "wait_s": str(wait_s)},
            timeout=aiohttp.ClientTimeout(total=wait_s + 10),
        )

    async def samples(self, request_class: str) -> list[dict[str, Any]]:
        """Sampled requests of a class, from the gateway's memory."""
        answer = await self._call("GET", "/samples", params={"request_class": request_class})
        return list(answer["samples"])

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()

    async def _call(
        self,
        method: str,
        path: str,
        *,
        json: dict[str, Any] | None = None,
        params: dict[str, str] | None = None,
        timeout: aiohttp.ClientTimeout = _TIMEOUT,  # noqa: ASYNC109  aiohttp's own
    ) -> dict[str, Any]:
        try:
            async with self._session.request(
                method, path, json=json, params=params, timeout=timeout
            ) as answer:
                answer.raise_for_status()
                body = await answer.json()
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(
                f"The gateway did not answer {method} {path} ({type(error).__name__}).",
                hint="It serves on with its last route; tunerd asks again.",
            ) from error
        return dict(body)
