"""None: jobq's tables are its own. Django sends `post_migrate` only to apps with this module."""
