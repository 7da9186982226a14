"""The application as servers import it: the only module that reads the environment on import."""

from hero_api.app import create_app
from hero_api.errors import StartError

try:
    app = create_app()
except StartError as error:
    raise SystemExit(f"hero-api: {error}") from None
