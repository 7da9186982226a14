"""The programs that the hero API is measured beside; uvicorn runs each as a module of its own."""
