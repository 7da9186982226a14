"""How HTTP departs from stock FastAPI: the fast route, errors, limits, and what operators ask."""
