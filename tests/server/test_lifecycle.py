"""What the connection learns of a request, and the server of an error."""

from types import SimpleNamespace

from starlette.types import Message, Receive, Scope, Send

from hero_api.server.lifecycle import RequestLifecycleMiddleware


async def fail(_scope: Scope, _receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 500, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})
    raise LookupError("answered, logged and raised again")


async def test_an_error_that_was_answered_is_no_matter_of_the_server() -> None:
    ended: list[bool] = []
    sent: list[str] = []

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        sent.append(message["type"])

    connection = SimpleNamespace(arrived=None, request_ended=lambda: ended.append(True))
    scope = {"type": "http", "state": {"connection": connection}}
    await RequestLifecycleMiddleware(fail)(scope, receive, send)
    assert sent == ["http.response.start", "http.response.body"]
    assert ended == [True]
