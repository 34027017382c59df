"""supervisor-pid1, a plugin that makes supervisord fit to be PID 1 of a container. See README.md."""

from __future__ import annotations

from typing import Any

__version__ = "2.0.0"


def __getattr__(name: str) -> Any:
    """Import the plugin only when supervisord asks for it. Without that, `python -m pid1` starts faster."""
    if name == "make_plugin":
        from pid1.hooks import make_plugin

        return make_plugin
    if name == "make_control":
        from pid1.status import make_control

        return make_control
    raise AttributeError(name)
