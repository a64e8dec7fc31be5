"""Where stored replies lie: in memory, on disk, and what keeps both within their limits."""
