"""The mirror copies another echo's segments over HTTP into its own data folder, which echo serves like any other."""

from echo.mirror.mirror import Link, Mirror, Status

__all__ = ["Link", "Mirror", "Status"]
