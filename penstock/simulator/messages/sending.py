"""Sends one answer, as a stream or as one JSON object, with a fault."""

import asyncio
import time
from dataclasses import dataclass, field

import orjson

from penstock.simulator.errors import ApiError
from penstock.simulator.exchange import Exchange
from penstock.simulator.faults.directives import Shape
from penstock.simulator.faults.fault import DEFAULT_STALL_S, Fault
from penstock.simulator.faults.malformed_responses import ENCODED_RESPONSES, MESSAGE_RESPONSES
from penstock.simulator.messages import sse
from penstock.simulator.messages.answers import Answer
from penstock.simulator.messages.conversation import Body
from penstock.simulator.messages.params_hash import params_hash
from penstock.simulator.messages.player import Player
from penstock.simulator.messages.script import Script, build_script
from penstock.simulator.state import State

_STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
}


@dataclass
class Sending:
    """One answer on its way to the client."""

    exchange: Exchange
    state: State
    body: Body
    answer: Answer
    shape: Shape
    fault: Fault
    message_id: str = field(init=False)
    thread_ended: bool = False

    def __post_init__(self) -> None:
        self.message_id = self.state.new_id("msg")

    async def stream(self) -> None:
        """Send the events, or what the fault asks for instead."""
        fault, options = self.fault, self.state.options
        if fault.response in MESSAGE_RESPONSES:
            await self.whole()
            return
        script = build_script(
            self.answer,
            self.message_id,
            fault=fault if fault.effects else None,
            ping_every=options.ping_every,
            request_id=self.exchange.request_id,
        )
        self.state.stats.stream_opened()
        try:
            await self._delay_first_byte()
            if fault.response in ENCODED_RESPONSES:
                await self._send_encoded(script, fault.response)
                return
            await self.exchange.start(200, _STREAM_HEADERS)
            player = Player(
                self.exchange,
                self.state.stats,
                rate=options.rate if self.shape.rate is None else self.shape.rate,
                chunk=fault.chunk or 0,
                crlf=bool(fault.crlf),
            )
            await player.play(script)
            self._finish_stream(script)
            if script.disconnects:
                await self.exchange.disconnect(reset=bool(fault.reset))
            else:
                await self.exchange.end()
        finally:
            self.state.stats.stream_closed()

    async def whole(self) -> None:
        """Send the message as one JSON object."""
        await self._delay_first_byte()
        fault = self.fault
        data = orjson.dumps(sse.message(self.answer, self.message_id))
        kind = MESSAGE_RESPONSES.get(fault.response or "", "application/json")
        headers = {"content-type": kind, "content-length": str(len(data))}
        if fault.stall_after is not None:
            await asyncio.sleep(DEFAULT_STALL_S if fault.stall is None else fault.stall)
        if fault.error_after is not None:
            raise ApiError(fault.error_type or "overloaded_error", fault.message or "")
        await self.exchange.start(200, headers)
        if {"disconnect_after", "eof_after", "drop_mid_char"} & set(fault.effects):
            # Without events there is only one place to cut: the middle of the body.
            self.end_thread(answered=False)
            await self.exchange.write(data[: len(data) // 2])
            await self.exchange.disconnect(reset=bool(fault.reset))
            return
        # Counted first: a client that has seen the end may read the counters immediately.
        self.end_thread(answered=True)
        self.state.stats.messages_answered += 1
        self._count_payment()
        chunk = fault.chunk or 0
        for start in range(0, len(data) if chunk else 0, chunk or 1):
            await self.exchange.write(data[start : start + chunk])
            await asyncio.sleep(0)
        await self.exchange.end(b"" if chunk else data)

    def end_thread(self, *, answered: bool) -> None:
        """Let the thread of the request be continued. Only the first call has an effect.

        It comes before the end of the body, so that the client can continue at once.
        """
        if not self.thread_ended:
            self.thread_ended = True
            id = self.message_id if answered else None
            self.state.threads.end(self.body, id, time.monotonic())

    async def _send_encoded(self, script: Script, name: str) -> None:
        encoding = ENCODED_RESPONSES[name]
        data = encoding.encode(b"".join(action.data for action in script.actions))
        await self.exchange.start(200, encoding.headers)
        self._finish_stream(script)
        await self.exchange.end(data)

    def _finish_stream(self, script: Script) -> None:
        # Counted first: a client that has seen the end may read the counters immediately.
        self.state.stats.messages_finished += script.complete
        if script.complete:
            self._count_payment()
        self.end_thread(answered=script.complete)

    def _count_payment(self) -> None:
        # A request is the same whether it is streamed, whole, or in a batch.
        params = {name: value for name, value in self.body.items() if name != "stream"}
        self.state.live_paid[params_hash(params)] += 1

    async def _delay_first_byte(self) -> None:
        seconds = self.state.options.latency_seconds + (self.fault.slow_first or 0.0)
        if seconds:
            await asyncio.sleep(seconds)
