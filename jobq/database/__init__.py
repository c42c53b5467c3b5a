"""Connections: URLs, pools, transactions. The only place, with the worker, that does I/O."""
