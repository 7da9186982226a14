"""What the service promises, a module of tests for each module of the package."""
