"""The signals that echo handles."""

import signal

STOP = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
SIGNALS = STOP | {signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
