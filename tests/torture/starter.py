"""A program that runs the application's lifespan in several processes at once."""

import asyncio
import os
import sys
import traceback

from hero_api.app import create_app
from hero_api.settings import Settings


async def _start(url: str) -> None:
    app = create_app(Settings(database_url=url))
    async with app.router.lifespan_context(app):
        pass


def _fork(signal: int, url: str) -> int:
    """Fork a process that waits for a byte of the pipe `signal`, and then starts on `url`."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.read(signal, 1)
        asyncio.run(_start(url))
        status = 0
    except Exception:  # noqa: BLE001 - whatever it is, it is reported
        traceback.print_exc()
    finally:
        os._exit(status)


def main() -> None:
    """Start on the URL of each line of the input, and say how each process ended."""
    processes = int(sys.argv[1])
    for line in sys.stdin:
        signal, go = os.pipe()
        children = [_fork(signal, line.strip()) for _ in range(processes)]
        os.write(go, b"!" * processes)
        os.close(go)
        os.close(signal)
        ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        print(*ends, flush=True)  # noqa: T201 - it is what the program is for


if __name__ == "__main__":
    main()
