"""Torture: nothing acknowledged is lost, and nothing brings the service down."""
