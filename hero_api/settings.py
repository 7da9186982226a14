"""The settings of the service, read from `HERO_API_...` environment variables."""

import logging
import os
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError
from sqlalchemy import URL, make_url

from hero_api.database.urls import DatabaseURL, shown
from hero_api.errors import StartError

PREFIX = "HERO_API_"
ROOT_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)*")
_ORIGIN = re.compile(r"\*|null|[a-z][a-z0-9+.-]*://[^/\s]+")

logger = logging.getLogger("hero_api")


class Settings(BaseSettings):
    """How one application runs; each field is the variable `HERO_API_` plus its name in capitals.

    The README says what each means; times are in seconds, and sizes in bytes. Raises `StartError`,
    one line that names the variable, for a value that cannot be used.
    """

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    database_url: DatabaseURL = "sqlite+aiosqlite:///database.db"
    read_database_url: DatabaseURL | None = None
    synchronous: Literal["FULL", "NORMAL"] = "FULL"
    busy_timeout: float = Field(default=5.0, ge=0, le=3600)
    read_connections: int = Field(default=4, ge=1, le=64)
    request_timeout: float = Field(default=10.0, gt=0, le=3600)
    max_body_size: int = Field(default=262_144, ge=1_024)
    max_lines: int = Field(default=10_000, ge=1, le=1_000_000)
    max_lines_size: int = Field(default=4_194_304, ge=1_024)
    idempotency_hours: float = Field(default=24.0, gt=0, le=8760)
    client_timeout: float = Field(default=20.0, gt=0, le=3600)
    token: SecretStr | None = Field(default=None, min_length=16)
    guard: Literal["writes", "all"] = "writes"
    root_path: str = ""
    cors_origins: list[str] = []
    telemetry: bool = False

    @field_validator("token")
    @classmethod
    def _fits_a_header(cls, token: SecretStr | None) -> SecretStr | None:
        text = token.get_secret_value() if token else ""
        if text != text.strip() or not text.isprintable():
            message = "must have no blanks at its ends, and no control characters"
            raise ValueError(message)
        return token

    @field_validator("root_path")
    @classmethod
    def _is_a_path(cls, path: str) -> str:
        if not ROOT_PATH.fullmatch(path):
            message = "must be a path such as /api, with no slash at its end"
            raise ValueError(message)
        return path

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if not _ORIGIN.fullmatch(origin):
                message = f"has {origin!r}, which no browser sends: write https://heroes.example"
                raise ValueError(message)
        return origins

    @field_validator("guard")
    @classmethod
    def _needs_a_token(cls, guard: str, info: ValidationInfo) -> str:
        if guard == "all" and not info.data.get("token"):
            message = "needs HERO_API_TOKEN to be set"
            raise ValueError(message)
        return guard

    def __init__(self, **values: Any) -> None:  # noqa: ANN401 - each is validated
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise StartError(_one_line(error)) from None
        except SettingsError as error:  # a list that is not JSON
            raise StartError(f"{PREFIX}CORS_ORIGINS must be a JSON list: {error}") from None

    @field_validator("read_database_url")
    @classmethod
    def _both_are_postgresql(cls, value: str | None, info: ValidationInfo) -> str | None:
        urls = [value, info.data.get("database_url", "")]
        if value and not all(url.startswith("postgresql") for url in urls):
            message = "is for PostgreSQL, and only where HERO_API_DATABASE_URL is PostgreSQL too"
            raise ValueError(message)
        return value

    @classmethod
    def variables(cls) -> list[str]:
        """Every environment variable that is read."""
        return [PREFIX + name.upper() for name in cls.model_fields]

    @classmethod
    def from_environment(cls, **options: object) -> "Settings":
        """Read the environment; an unknown `HERO_API_...` variable is a warning that names it.

        An option of the command takes precedence, unless it is None.
        """
        settings = cls(**{name: value for name, value in options.items() if value is not None})
        for name in sorted(set(os.environ) - set(cls.variables())):
            if name.startswith(PREFIX):
                # Not an error: Kubernetes sets HERO_API_PORT for a Service of that name.
                logger.warning("The environment variable %s is not a setting: ignored", name)
        return settings

    @property
    def url(self) -> URL:
        """The database URL, parsed."""
        return make_url(self.database_url)

    @property
    def read_url(self) -> URL:
        """The URL of the database that reads go to, parsed."""
        return make_url(self.read_database_url or self.database_url)

    @property
    def is_postgresql(self) -> bool:
        """Whether the heroes are in PostgreSQL, and not in a file."""
        return self.url.get_backend_name() == "postgresql"

    @property
    def database_name(self) -> str:
        """The database as people may see it: its file, or its URL with the password hidden."""
        return shown(self.url) if self.is_postgresql else str(self.path)

    @property
    def path(self) -> Path:
        """The file that SQLite keeps the heroes in.

        Raises `ValueError` for PostgreSQL: the name of its database is no path.
        """
        if self.is_postgresql:
            raise ValueError("PostgreSQL keeps the heroes in no file")
        return Path(self.url.database or "")


def _one_line(error: ValidationError) -> str:
    problems = (
        f"{PREFIX}{str(problem['loc'][0]).upper()} {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_input=False)
    )
    return "; ".join(problems)
