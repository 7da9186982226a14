"""The hero API: the FastAPI tutorial's hero service, asynchronous and made real."""
