"""rbee: every computer you own as one private AI service."""

__version__ = "0.1.0"
