"""Simulated incidents: real processes on a real PostgreSQL, and reports of what they did."""
