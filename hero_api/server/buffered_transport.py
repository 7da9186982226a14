"""A transport that sends the head and the body of an answer together."""

import asyncio


class BufferedTransport:
    """Sends in one piece what is written in one turn of the event loop.

    uvicorn writes the head of an answer and then its body, and uvloop sends at once what it is
    given: two segments, each of which wakes the client. All answers of a batch are written in one
    turn too, and are then sent one after the other. A client that has left by then is sent nothing.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.is_closing = transport.is_closing
        self.is_reading = transport.is_reading
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.get_extra_info = transport.get_extra_info
        self._loop = asyncio.get_running_loop()
        self._pieces: list[bytes | bytearray] = []

    def write(self, data: bytes | bytearray) -> None:
        if not self._pieces:
            self._loop.call_soon(self._send)
        self._pieces.append(data)

    def close(self) -> None:
        self._send()
        self._transport.close()

    def abort(self) -> None:
        self._pieces.clear()
        self._transport.abort()

    def _send(self) -> None:
        if self._pieces and not self._transport.is_closing():
            self._transport.write(b"".join(self._pieces))
        self._pieces.clear()
