"""SQLite: its engines, its file, its statements, and its end of a transfer."""
