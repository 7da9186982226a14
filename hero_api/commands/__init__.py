"""What runs without the service."""
