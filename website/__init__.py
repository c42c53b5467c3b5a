"""Builds the documentation's site: `mkdocs build`. See CONTRIBUTING.md."""
