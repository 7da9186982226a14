"""`python -m hero_api` is the command `hero-api`."""

from hero_api.cli import main

main()
