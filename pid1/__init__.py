"""supervisor-pid1: what supervisord lacks as PID 1 of a container. README.md has the settings and how it hooks in."""

from __future__ import annotations

from typing import Any

__version__ = "2.0.0"


def __getattr__(name: str) -> Any:
    """Import the plugin when supervisord asks for it: `python -m pid1` starts faster without supervisord's modules."""
    if name == "make_plugin":
        from pid1.hooks import make_plugin

        return make_plugin
    if name == "make_control":
        from pid1.status import make_control

        return make_control
    raise AttributeError(name)
