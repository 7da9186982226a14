"""uvicorn as `hero-api serve` runs it: sockets, deadlines and processes; no heroes, no routes."""
