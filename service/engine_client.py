"""Questions to an engine over its unix socket: health, canary, version."""

from pathlib import Path

import aiohttp

from profiles.errors import UnavailableError

CANARY_PROMPT = "def add(a, b):\n    return"
CANARY_TOKENS = 4
_TIMEOUT = aiohttp.ClientTimeout(total=5)
_CANARY_TIMEOUT = aiohttp.ClientTimeout(total=120)  # the first request may compile kernels


class EngineClient:
    """An HTTP client of one engine."""

    def __init__(self, socket: Path) -> None:
        self._model: str | None = None  # once it has named it
        self._session = aiohttp.ClientSession(
            "http://engine", connector=aiohttp.UnixConnector(path=str(socket))
        )

    async def healthy(self) -> bool:
        """Whether `/health` answers 200; says nothing about a frozen core (vllm#39863)."""
        try:
            async with self._session.get("/health", timeout=_TIMEOUT) as answer:
                return answer.status == 200
        except (aiohttp.ClientError, TimeoutError, OSError):
            return False

    async def version(self) -> str | None:
        """The version that vLLM reports, None when it does not answer."""
        try:
            async with self._session.get("/version", timeout=_TIMEOUT) as answer:
                version = (await answer.json()).get("version")
                return version if isinstance(version, str) else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    async def model(self) -> tuple[str, int | None]:
        """Name and `max_model_len` of the served model.

        Raises:
            UnavailableError: the engine does not say.
        """
        try:
            async with self._session.get("/v1/models", timeout=_TIMEOUT) as answer:
                first = (await answer.json())["data"][0]
                length = first.get("max_model_len")
                self._model = str(first["id"])
                return self._model, length if isinstance(length, int) else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, LookupError) as error:
            raise UnavailableError("The engine does not name its model.") from error

    async def canary(self) -> str | None:
        """Ask for a short completion; None when it is right, else what is wrong with it."""
        try:
            model, _ = await self.model()
            async with self._session.post(
                "/v1/completions", json=_canary(model), timeout=_CANARY_TIMEOUT
            ) as answer:
                if answer.status != 200:
                    return f"The canary completion was answered with HTTP {answer.status}."
                tokens = (await answer.json())["usage"]["completion_tokens"]
        except (aiohttp.ClientError, TimeoutError, OSError, UnavailableError) as error:
            return f"The canary completion was not answered ({type(error).__name__})."
        except (ValueError, LookupError, TypeError):
            return "The canary completion was not a completion."
        if tokens != CANARY_TOKENS:
            return f"The canary completion had {tokens} tokens instead of {CANARY_TOKENS}."
        return None

    async def silent(self, within_s: float) -> bool:
        """Whether a short completion has no answer of any kind in this time."""
        body = _canary(self._model)
        timeout = aiohttp.ClientTimeout(total=within_s)
        try:
            async with self._session.post("/v1/completions", json=body, timeout=timeout) as answer:
                await answer.read()
        except TimeoutError:
            return True
        except (aiohttp.ClientError, OSError):
            return False  # it breaks connections: whoever watches its process will say why
        return False

    async def metrics(self, within_s: float) -> str | None:
        """Its counters as Prometheus text; None when it does not show them in this time."""
        timeout = aiohttp.ClientTimeout(total=within_s)
        try:
            async with self._session.get("/metrics", timeout=timeout) as answer:
                return await answer.text() if answer.status == 200 else None
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError):
            return None

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


def _canary(model: str | None) -> dict[str, object]:
    return {
        **({} if model is None else {"model": model}),
        "prompt": CANARY_PROMPT,
        "max_tokens": CANARY_TOKENS,
        "min_tokens": CANARY_TOKENS,
        "ignore_eos": True,
        "temperature": 0,
    }
