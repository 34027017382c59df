"""The command `pid1`: supervisord with the same arguments, which loses no signal while it starts."""

from __future__ import annotations

import signal


def main() -> None:
    """Block the signals and exec supervisord; the plugin unblocks them once supervisord's handlers are installed.

    The kernel drops signals to a PID 1 that has no handler, and kills any other process that has none.
    """
    names = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.Signals[name] for name in names])
    from pid1.launch import launch  # only now: signals may come already

    launch()


if __name__ == "__main__":
    main()
