"""A table hangs for some seconds, and the retries make an outage of it."""
