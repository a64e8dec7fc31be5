"""imagegate: a caching reverse proxy and key gateway for OpenAI's Images API."""

__version__ = "0.1.0"
