"""A profile for Locust: few users, suddenly ten times as many, and few again."""

from locust import LoadTestShape


class Spike(LoadTestShape):
    """A third of `--run-time` each with a tenth of `--users`, with all of them, and as before."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return how many users there are to be, and how many come or go in a second."""
        assert self.runner is not None
        options = self.runner.environment.parsed_options
        assert options is not None
        users, seconds = options.num_users or 500, options.run_time or 90
        part = int(3 * self.get_run_time() // seconds)  # type: ignore[no-untyped-call]
        return (users if part == 1 else users // 10, users) if part < 3 else None
