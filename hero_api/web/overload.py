"""Says in the log when an overload begins and when it has ended, and nothing in between."""

import asyncio
import logging

_QUIET = 2.0  # seconds without a refusal after which it has ended

logger = logging.getLogger("hero_api")


class OverloadLog:
    """Is told of each request that is refused because its time was over before it began."""

    def __init__(self, quiet: float = _QUIET) -> None:
        self._quiet = quiet
        self._refused = 0
        self._seen = 0
        self._since = 0.0

    def refused(self) -> None:
        """Take note of a refusal."""
        self._refused += 1
        if self._refused == 1:
            loop = asyncio.get_running_loop()
            self._since = loop.time()
            logger.warning("An overload begins: too many requests wait, and others are refused")
            loop.call_later(self._quiet, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        if self._refused > self._seen:
            self._seen = self._refused
            loop.call_later(self._quiet, self._look)
            return
        took = loop.time() - self._since - self._quiet
        logger.warning("The overload has ended after %.0f s: %d were refused", took, self._refused)
        self._refused = self._seen = 0
