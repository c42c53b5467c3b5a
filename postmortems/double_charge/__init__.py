"""Customers are charged twice: workers are paused past their leases, and one is killed."""
