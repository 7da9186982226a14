"""The service behind a real proxy."""

import asyncio
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

import hero_api.server
from tests.ports import free_port
from tests.servers import Process, launching
from tests.torture.wire import Connection

pytestmark = pytest.mark.sqlite  # the engine makes no difference to it

README = Path(hero_api.server.__file__).with_name("README.md").read_text()
PATIENCE = 30.0  # seconds
CLIENTS = 16
HERO = {"name": "Deadpond", "secret_name": "Dive Wilson"}

NGINX = """
daemon off; pid {directory}/nginx.pid; error_log {directory}/error.log;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi; uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
"""  # what comes around a configuration of the README


def documented(section: str, proxy: str) -> str:
    """Return a proxy's configuration, as a section of the README has it, as a template."""
    after = README.partition(f"\n{section}\n")[2]
    block = re.findall(rf"```{proxy}\w*\n(.*?)```", after, re.DOTALL)[0]
    template = str(block).replace("{", "{{").replace("}", "}}")
    for server in ("127.0.0.1:8000", "unix:/run/hero-api.sock"):
        template = template.replace(server, "{upstream}")
    for listens in ("listen 80", "bind :80"):
        template = template.replace(listens, listens.split()[0] + " 127.0.0.1:{port}")
    return template.replace(":80 {{", "http://127.0.0.1:{port} {{")


def program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: apt-get install {name})")
    return path


@contextmanager
def proxying(template: str, upstream: str, *command: str) -> Iterator[int]:
    """Run a proxy in front of `upstream`; yield its port."""
    port = free_port()
    # Its own user can get at this one.
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        file = Path(directory) / "configuration"
        file.write_text(template.format(directory=directory, port=port, upstream=upstream))
        with subprocess.Popen([*command, str(file)], stderr=subprocess.DEVNULL) as process:
            try:
                wait_for(port)
                yield port
            finally:
                process.terminate()
                process.wait(PATIENCE)


def wait_for(port: int) -> None:
    end = time.monotonic() + PATIENCE
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.02)
        else:
            return


class Clients:
    """Clients that create and read in a loop through a proxy."""

    def __init__(self, port: int) -> None:
        self.statuses: Counter[int] = Counter()
        self._port = port
        self._is_over = False
        self._progress = asyncio.Condition()

    async def run(self) -> None:
        await asyncio.gather(*(self._ask() for _ in range(CLIENTS)))

    async def answers(self, count: int) -> None:
        """Wait for so many more answers."""
        target = self.statuses.total() + count
        async with asyncio.timeout(PATIENCE), self._progress:
            await self._progress.wait_for(lambda: self.statuses.total() >= target)

    def stop(self) -> None:
        self._is_over = True

    async def _ask(self) -> None:
        async with Connection("127.0.0.1", self._port) as client:
            while not self._is_over:
                created = await client.request("POST", "/heroes/", HERO)
                read = await client.request("GET", "/heroes/?limit=1")
                async with self._progress:
                    self.statuses.update((created.status, read.status))
                    self._progress.notify_all()


def upstream_of(place: tuple[str, str]) -> str:
    """Return how nginx names where the service listens."""
    option, value = place
    # A port that is refused is asked again at once, and not only after ten seconds.
    return f"unix:{value}" if option == "--uds" else f"127.0.0.1:{value} max_fails=0"


@pytest.mark.parametrize("option", ["--uds", "--port"])
async def test_a_rolling_restart_behind_nginx_loses_no_request(
    option: str, public: Path, tmp_path: Path
) -> None:
    nginx = program("nginx")
    if option == "--uds":
        places = [(option, str(public / "socket"))] * 2
    else:
        places = [(option, str(free_port())) for _ in range(2)]
    upstream = "; server ".join(map(upstream_of, dict.fromkeys(places)))
    template = NGINX + documented("## Behind a proxy", "nginx") + "}}"
    with ExitStack() as stack:
        old = stack.enter_context(serving(tmp_path, places[0]))
        port = stack.enter_context(proxying(template, upstream, nginx, "-e", "/dev/null", "-c"))
        clients = Clients(port)
        load = asyncio.create_task(clients.run())
        await clients.answers(100)
        for place in places[1:]:
            new = await asyncio.to_thread(stack.enter_context, serving(tmp_path, place))
            old.send_signal(signal.SIGTERM)
            assert await asyncio.to_thread(old.wait, PATIENCE) == 0
            await clients.answers(100)
            old = new
        clients.stop()
        await load
    assert set(clients.statuses) == {200}


@contextmanager
def serving(directory: Path, place: tuple[str, str]) -> Iterator[Process]:
    serve = ("-m", "hero_api", "serve")
    with launching(directory, program=serve, options=place) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Listening on")
        yield process
