"""A cache directory as an operator looks at it: counted, listed, purged and verified, offline or beside a running proxy."""
