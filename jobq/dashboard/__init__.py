"""The dashboard: an ASGI app by itself, or mounted into a service's own."""

from jobq.dashboard.app import create_dashboard

__all__ = ["create_dashboard"]
