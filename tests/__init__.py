"""What the service promises, in the rooms of the package."""
