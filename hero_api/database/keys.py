"""Idempotency keys: which row was stored under a key, and how that was answered."""

import logging
from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import BigInteger, Column, Connection, Table, Text, inspect
from sqlalchemy.exc import DBAPIError
from sqlmodel import SQLModel

from hero_api.database.verdicts import describe

# Of all nouns. The key comes first in the primary key: its index is for lookups by key alone.
KEYS = Table(
    "hero_api_idempotency",
    SQLModel.metadata,
    Column("key", Text, primary_key=True),
    Column("noun", Text, primary_key=True),
    Column("fingerprint", Text, nullable=False),
    Column("row_id", BigInteger, nullable=False, index=True),
    # Of several rows their ids, the first of which is `row_id`; NULL once that row was deleted.
    Column("answer", Text),
    Column("created", BigInteger, nullable=False, index=True),
)
KEEPING = "hero_api.keys"  # under this name a session's `info` has the `Keeping` of its database

logger = logging.getLogger("hero_api")


@dataclass(eq=False)
class Keeping:
    """How long a database keeps its keys, and what the last batches found of them."""

    seconds: float = 86_400
    unknown: int = 0  # batches since one that had a known key
    has_old: bool = False  # whether the last look found some that are to be cleared away


class KeyStatements(NamedTuple):
    """What is done with keys on one engine; `wait` is empty where nobody has to.

    `find` returns each key that is known or that another process works on, with its row where there
    is one; and first in every row, of which there is at least one, whether there are old keys to
    `expire`. `wait` waits for such a process. `store` fails where a key is known or another
    process works on it.
    """

    wait: str
    find: str
    expire: str
    store: str
    forget: str


_SQLITE = KeyStatements(
    wait="",
    find="""
        SELECT is_due, key, fingerprint, row_id, answer
        FROM (SELECT min(created) < :oldest AS is_due FROM hero_api_idempotency)
        LEFT JOIN hero_api_idempotency
            ON key IN (SELECT value FROM json_each(:keys)) AND noun = :noun""",
    expire="""
        DELETE FROM hero_api_idempotency WHERE rowid IN (
            SELECT rowid FROM hero_api_idempotency WHERE created < :oldest
            ORDER BY created LIMIT :bite)""",
    store="""
        INSERT INTO hero_api_idempotency (key, noun, fingerprint, row_id, answer, created)
        SELECT json_extract(value, '$.key'), :noun, json_extract(value, '$.fingerprint'),
               json_extract(value, '$.row_id'), json_extract(value, '$.answer'), :now
        FROM json_each(:items)""",
    forget="""
        UPDATE hero_api_idempotency SET answer = NULL, fingerprint = ''
        WHERE row_id IN (SELECT value FROM json_each(:ids)) AND noun = :noun""",
)
# What another process clears away at the same time is left to it.
_POSTGRESQL = KeyStatements(
    # Two numbers: another space than that of the lock that orders who draws ids.
    wait="""
        SELECT pg_advisory_xact_lock(hashtext('hero_api_idempotency'), hashtext(key))
        FROM json_array_elements_text(CAST(%(keys)s AS json)) AS each (key)""",
    # A key whose lock was set free after this statement began is not seen: that shows when it is
    # stored, and then the batch is run again.
    find="""
        SELECT is_due, known.key, fingerprint, row_id, answer
        FROM (SELECT min(created) < CAST(%(oldest)s AS bigint) AS is_due
              FROM hero_api_idempotency) AS first
        LEFT JOIN (
            SELECT each.key, it.* FROM (
                SELECT key, pg_try_advisory_xact_lock(
                    hashtext('hero_api_idempotency'), hashtext(key)) AS is_free
                FROM json_array_elements_text(CAST(%(keys)s AS json)) AS each (key) OFFSET 0
            ) AS each
            LEFT JOIN LATERAL (
                SELECT fingerprint, row_id, answer FROM hero_api_idempotency AS it
                WHERE it.key = each.key AND it.noun = %(noun)s OFFSET 0) AS it ON true
            WHERE row_id IS NOT NULL OR NOT is_free) AS known ON true""",
    expire="""
        DELETE FROM hero_api_idempotency WHERE ctid = ANY (ARRAY(
            SELECT ctid FROM hero_api_idempotency WHERE created < CAST(%(oldest)s AS bigint)
            ORDER BY created LIMIT CAST(%(bite)s AS bigint) FOR UPDATE SKIP LOCKED))""",
    store="""
        INSERT INTO hero_api_idempotency (key, noun, fingerprint, row_id, answer, created)
        SELECT CASE WHEN pg_try_advisory_xact_lock(
                   hashtext('hero_api_idempotency'), hashtext(key)) THEN key END,
               %(noun)s, fingerprint, row_id, answer, CAST(%(now)s AS bigint)
        FROM json_to_recordset(CAST(%(items)s AS json))
             AS item (key text, fingerprint text, row_id bigint, answer text)""",
    forget="""
        UPDATE hero_api_idempotency SET answer = NULL, fingerprint = ''
        WHERE ctid = ANY (ARRAY(
            SELECT known.ctid FROM unnest(CAST(%(ids)s AS bigint[])) AS each (id),
                LATERAL (SELECT ctid FROM hero_api_idempotency
                         WHERE row_id = each.id AND noun = %(noun)s
                         OFFSET 0 FOR UPDATE SKIP LOCKED) AS known))""",
)
KEY_STATEMENTS = {"sqlite": _SQLITE, "postgresql": _POSTGRESQL}


def has_keys(connection: Connection) -> bool:
    """Say whether there is the table of the keys."""
    return inspect(connection).has_table(KEYS.name)


def make_keys(connection: Connection) -> None:
    """Make the table of the keys; warn where the role may not."""
    try:
        with connection.begin_nested():
            KEYS.create(connection, checkfirst=True)
    except DBAPIError as error:
        logger.warning(
            "The table %s cannot be made, and creates with an Idempotency-Key are refused (%s). "
            "Run `hero-api upgrade` as a role that may",
            KEYS.name,
            describe(error),
        )
