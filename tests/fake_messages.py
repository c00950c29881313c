"""How `fake_vllm.py` answers /v1/messages: events and names as vLLM 0.32 sends them."""

import json
from typing import Any

from aiohttp import web
from fake_engine import Answer, arguments


class Message(Answer):
    """One message of Anthropic's API on its way."""

    async def chunk(
        self, response: web.StreamResponse, text: str, *, first: bool, last: bool
    ) -> None:
        if first:
            message = {**self.body("", done=False), "content": []}
            await self.event(response, "message_start", message=message)
            block = self.block("", whole=False)
            await self.event(response, "content_block_start", index=0, content_block=block)
        delta = {"type": "text_delta", "text": text}
        if self.tool:
            piece = arguments(text, first=first, last=last)
            delta = {"type": "input_json_delta", "partial_json": piece}
        await self.event(response, "content_block_delta", index=0, delta=delta)

    async def end(self, response: web.StreamResponse) -> None:
        last = self.body("")
        await self.event(response, "content_block_stop", index=0)
        delta = {"stop_reason": last["stop_reason"], "stop_sequence": None}
        await self.event(response, "message_delta", delta=delta, usage=last["usage"])
        if self.kind != "no_done":
            await self.event(response, "message_stop")

    async def error_event(self, response: web.StreamResponse) -> None:
        error = {"type": "internal_error", "message": "EngineCore encountered an issue."}
        await self.event(response, "error", error=error)

    async def event(self, response: web.StreamResponse, name: str, **more: Any) -> None:
        await self.send(response, json.dumps({"type": name, **more}, separators=(",", ":")), name)

    def block(self, text: str, *, whole: bool = True) -> dict[str, Any]:
        if not self.tool:
            return {"type": "text", "text": text}
        call = {"type": "tool_use", "id": "toolu_fake", "name": self.tool}
        return {**call, "input": json.loads(arguments(text)) if whole else {}}

    def body(self, text: str, *, usage: dict[str, int] | None = None, done: bool = True) -> Any:
        counted = self.usage
        reason = "tool_use" if self.tool else "max_tokens"
        return {
            "id": "msg_fake",
            "type": "message",
            "role": "assistant",
            "model": self.engine.model,
            "content": [self.block(text)],
            "stop_reason": reason if done else None,
            "stop_sequence": None,
            "usage": {
                "input_tokens": counted["prompt_tokens"],
                "output_tokens": counted["completion_tokens"] if done else 0,
            },
        }
