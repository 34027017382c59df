"""A mirror: copies another echo's segments over HTTP into a data folder of its own, which is served like any other."""

from echo.mirror.mirror import Link, Mirror, Status

__all__ = ["Link", "Mirror", "Status"]
