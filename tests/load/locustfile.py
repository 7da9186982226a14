"""Users for Locust, who browse, read, create, change and delete; README.md says how to start."""

import random
import time
from collections.abc import Mapping
from typing import Any

from locust import FastHttpUser, between, task
from locust.exception import RescheduleTask
from requests.utils import parse_header_links

_PAGES = 3  # that somebody who browses looks at
_VISITOR = "Visitor"  # how the names of heroes begin that users create
_LIMIT = 20  # heroes of a page


class HeroUser(FastHttpUser):
    """One client. It looks at every answer, and comes back when a 503 says that it may."""

    wait_time = between(0.1, 1.0)

    @task(6)
    def browse(self) -> None:
        """Walk along the links from somewhere in the list, and read a hero of each page."""
        path = f"/heroes/?limit={_LIMIT}&after={random.randrange(10_000)}"
        for _ in range(_PAGES):
            heroes, headers = self.ask("GET", path, "/heroes/?after=")
            ids = [hero["id"] for hero in heroes]
            self.expect(ids == sorted(set(ids)), "a page is in the order of ids")
            # Those of other users are changed and deleted at any moment.
            if stable := [hero for hero in heroes if not hero["name"].startswith(_VISITOR)]:
                self.read(random.choice(stable))
            links = parse_header_links(headers.get("Link") or "")
            following = [link["url"] for link in links if link.get("rel") == "next"]
            if not following:
                break
            [path] = following

    @task(1)
    def work(self) -> None:
        """Create a hero, change it, read it, and delete it again."""
        wanted = {"name": f"{_VISITOR} {random.randrange(1_000)}", "age": 30, "secret_name": "?"}
        hero, _ = self.ask("POST", "/heroes/", "/heroes/", wanted)
        self.expect(hero == wanted | {"id": hero["id"]}, "a hero is stored as it was sent")
        path = f"/heroes/{hero['id']}"
        changed, _ = self.ask("PATCH", path, "/heroes/[id]", {"age": 31})
        self.expect(changed == hero | {"age": 31}, "one field is changed, and no other")
        self.read(hero | {"age": 31})
        self.ask("DELETE", path, "/heroes/[id]")
        self.ask("GET", path, "/heroes/[deleted]", status=404)

    def read(self, hero: Mapping[str, Any]) -> None:
        """Read a hero that is known."""
        read, _ = self.ask("GET", f"/heroes/{hero['id']}", "/heroes/[id]")
        self.expect(read == hero, "a hero is read as it was written")

    def ask(
        self,
        method: str,
        path: str,
        name: str,
        body: Mapping[str, Any] | None = None,
        status: int = 200,
    ) -> tuple[Any, Mapping[str, str]]:
        """Return the answer's JSON and headers, after as many 503 as it takes.

        Each 503 is a failure in the report. After any other answer than the one that was expected,
        which is a failure too, the user begins something else.
        """
        while True:
            with self.client.request(
                method, path, name=name, json=body, catch_response=True
            ) as answer:
                if answer.status_code == status:
                    answer.success()
                    return answer.json(), answer.headers
                answer.failure(f"{answer.status_code}: {answer.text}")
            wait = (answer.headers or {}).get("Retry-After")
            if wait is None:
                raise RescheduleTask
            # Locust lets the other users go on meanwhile.
            time.sleep(float(wait) + random.random())

    def expect(self, holds: bool, what: str) -> None:  # noqa: FBT001 - reads as an assertion
        """Report what does not hold as a failure of its own."""
        if not holds:
            self.environment.events.request.fire(
                request_type="CHECK",
                name=what,
                response_time=0,
                response_length=0,
                exception=AssertionError(what),
                context={},
            )
