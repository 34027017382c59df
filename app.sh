#!/bin/sh
# Runs the application in the foreground: in its image, and on a bare machine, where the data file is ./data.
set -eu
case $0 in
    /*) here=${0%/*} ;;
    */*) here=$PWD/${0%/*} ;;
    *) here=$PWD ;;
esac

fail() {
    echo "app.sh: $1" >&2
    exit 2
}

if [ -z "${APPCOUP_VENV:-}" ]; then # the image has everything installed
    APPCOUP_VENV=$here/.venv
    "$here/tests/venv" "$APPCOUP_VENV" "$here/requirements.txt"
fi
if [ -z "${APPCOUP_RUN:-}" ]; then
    APPCOUP_RUN=$here/.run
    mkdir -p "$APPCOUP_RUN"
fi
[ -w "$APPCOUP_RUN" ] || fail "$APPCOUP_RUN is not writable, and a socket and a heartbeat must be: mount a tmpfs there, as --tmpfs /tmp"

export PATH="$APPCOUP_VENV/bin:$PATH" PYTHONPATH="$here" APPCOUP_RUN
export GENERATOR_FILE="${GENERATOR_FILE:-data}" GENERATOR_HEARTBEAT="${GENERATOR_HEARTBEAT:-$APPCOUP_RUN/generator.alive}"
export ECHO_SOURCE="${ECHO_SOURCE:-$GENERATOR_FILE}" ECHO_LISTEN="${ECHO_LISTEN:-0.0.0.0:8000}"

# Where supervisord asks echo whether it is alive.
case $ECHO_LISTEN in
    0.0.0.0:* | \[::\]:* | :*) APPCOUP_ECHO=127.0.0.1:${ECHO_LISTEN##*:} ;;
    *:*) APPCOUP_ECHO=$ECHO_LISTEN ;;
    *) APPCOUP_ECHO=127.0.0.1:$ECHO_LISTEN ;;
esac
export APPCOUP_ECHO

# The kernel drops signals to a PID 1 without handlers, so those that come before supervisord has its own
# are blocked, that is kept, until the pid1 plugin lets them in.
set -- supervisord -c "$here/supervisord.conf"
[ $$ -ne 1 ] || set -- env --block-signal=TERM --block-signal=INT --block-signal=QUIT --block-signal=HUP --block-signal=USR1 --block-signal=USR2 "$@"
exec "$@"
