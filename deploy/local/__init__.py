"""Real servers on loopback, for the tests and for `make up`."""
