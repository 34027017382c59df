"""The command `pid1`: runs supervisord with the same arguments and loses no signal while it starts."""

from __future__ import annotations

import signal


def main() -> None:
    """Block the signals and exec supervisord. The plugin unblocks them once supervisord has installed its handlers.

    Without a handler, the kernel drops the signal if the process is PID 1, and kills any other process.
    """
    names = ("SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2")
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.Signals[name] for name in names])
    from pid1.launch import launch  # imported after the signals are blocked, because the import takes time

    launch()


if __name__ == "__main__":
    main()
