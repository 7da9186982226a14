"""How the log of `hero-api serve` looks."""

import json
import logging
from datetime import UTC, datetime


class JSONFormatter(logging.Formatter):
    """Writes a record as a JSON object in a line, with the fields of its `request`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields |= getattr(record, "request", {})
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


def configure(style: str, level: str) -> None:
    """Write the log to standard error, from `level` on; the access log has a level of its own."""
    text = logging.Formatter("%(asctime)s %(levelname)s %(message)s")
    handler = logging.StreamHandler()
    handler.setFormatter(JSONFormatter() if style == "json" else text)
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    logging.getLogger("hero_api.access").setLevel(logging.INFO)
