"""PostgreSQL: its engines and their watchdog, its statements, and its end of a transfer."""
