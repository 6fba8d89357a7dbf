"""Use cases: each takes a request and yields events."""
