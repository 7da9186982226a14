"""A transport that sends the head and the body of an answer together."""

import asyncio
from typing import Any


class BufferedTransport(asyncio.Transport):
    """Sends in one piece what is written in one turn of the event loop.

    uvicorn writes the head of an answer and then its body, and uvloop sends at once what it is
    given: two segments, each of which wakes the client. All answers of a batch are written in one
    turn too, and are then sent one after the other. A client that has left by then is sent nothing.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        super().__init__()
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes] = []

    def write(self, data: Any) -> None:  # noqa: ANN401 - bytes of any kind
        if not self._pieces:
            self._loop.call_soon(self._send)
        self._pieces.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def abort(self) -> None:
        self._pieces.clear()
        self._transport.abort()

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def is_reading(self) -> bool:
        return self._transport.is_reading()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:  # noqa: ANN401
        return self._transport.get_extra_info(name, default)

    def _send(self) -> None:
        if self._pieces and not self._transport.is_closing():
            self._transport.write(b"".join(self._pieces))
        self._pieces.clear()
