"""The command `hero-api`, and `python -m hero_api`: what has to come before the other imports."""

import sys

from hero_api.server.signals import end_at_once, stop_as_by_ctrl_c


def main() -> None:
    """Run the command; a stop signal ends a server that is still being imported."""
    # Another command that was stopped has not done what it was asked for: its status is not 0.
    if sys.argv[1:2] == ["serve"]:
        end_at_once()
    else:
        stop_as_by_ctrl_c()
    try:
        from hero_api import cli
    except KeyboardInterrupt:
        sys.exit(130)

    cli.main()


if __name__ == "__main__":
    main()
