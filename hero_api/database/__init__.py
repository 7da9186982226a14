"""The database: sessions over the engines of SQLite or PostgreSQL, and the SQL of a table."""
