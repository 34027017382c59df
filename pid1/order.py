"""The graph of dependencies between programs, by name."""

from __future__ import annotations

from typing import Mapping, Sequence


def stop_turns(graph: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Return the turn in which each program stops: 0 if nothing depends on it, else one after its dependants.

    `graph` maps each program to its dependencies. Raises ValueError for an unknown name or a cycle.
    """
    for name, needs in graph.items():
        unknown = [each for each in needs if each not in graph]
        if unknown:
            raise ValueError(f"depends_on of {name}: unknown program {unknown[0]}")
    turns: dict[str, int] = {}

    def turn(name: str, path: tuple[str, ...]) -> int:
        if name in path:
            raise ValueError(f"depends_on has a cycle: {' -> '.join((*path[path.index(name) :], name))}")
        if name not in turns:
            dependants = [each for each in graph if name in graph[each]]
            turns[name] = max((1 + turn(each, (name, *path)) for each in dependants), default=0)
        return turns[name]

    for name in graph:
        turn(name, ())
    return turns
