#!/bin/sh
# Run the application in the foreground, in its image or on a bare machine, where the data file is ./data.
set -eu
self=$0
[ ! -h "$self" ] || self=$(readlink -f -- "$self")
case $self in
    /*) here=${self%/*} ;;
    */*) here=$PWD/${self%/*} ;;
    *) here=$PWD ;;
esac

fail() {
    echo "app.sh: $1" >&2
    exit 2
}

if [ -z "${APPCOUP_VENV:-}" ]; then # the image has everything installed
    APPCOUP_VENV=$here/.venv
    "$here/scripts/venv" "$APPCOUP_VENV" "$here/requirements.txt"
fi
if [ -z "${APPCOUP_RUN:-}" ]; then
    APPCOUP_RUN=$here/.run
    mkdir -p "$APPCOUP_RUN"
fi
case $APPCOUP_RUN in
    /*) ;;
    *) APPCOUP_RUN=$PWD/$APPCOUP_RUN ;;
esac
[ ${#APPCOUP_RUN} -le 83 ] || fail "$APPCOUP_RUN is too long for the name of a socket: set APPCOUP_RUN to a folder of at most 83 characters"
[ -w "$APPCOUP_RUN" ] || fail "cannot write to $APPCOUP_RUN, where a socket and heartbeats go: mount a tmpfs there, as --tmpfs /tmp"

# supervisord inherits the lock and holds it until it ends.
exec 3>"$APPCOUP_RUN/appcoup.lock"
flock -n 3 || fail "another one runs with $APPCOUP_RUN: stop it first, or set APPCOUP_RUN to another folder"

export PATH="$APPCOUP_VENV/bin:$PATH" APPCOUP_RUN
export PYTHONPATH="$here" PYTHONSAFEPATH=1 # the programs are here; modules in the caller's folder are ignored
export GENERATOR_FILE="${GENERATOR_FILE:-data}"
export ECHO_SOURCE="${ECHO_SOURCE:-$GENERATOR_FILE}"

# By these supervisord sees whether the programs live. The names are also in health.sh.
export GENERATOR_HEARTBEAT="${GENERATOR_HEARTBEAT:-$APPCOUP_RUN/generator.alive}"
export ECHO_HEARTBEAT="${ECHO_HEARTBEAT:-$APPCOUP_RUN/echo.alive}"

# A generator with a count is done with status 0. Without one it is restarted, whoever ended it.
case ${GENERATOR_COUNT:-0} in
    *[!0]*) APPCOUP_RESTART=unexpected ;;
    *) APPCOUP_RESTART=true ;;
esac
export APPCOUP_RESTART

# pid1 blocks signals until supervisord has its handlers, so that none is lost. As PID 1 they are blocked here already,
# because the kernel drops signals to a PID 1 without handlers.
set -- python -m pid1 -c "$here/supervisord.conf"
[ $$ -ne 1 ] || set -- env --block-signal=TERM --block-signal=INT --block-signal=QUIT --block-signal=HUP --block-signal=USR1 --block-signal=USR2 "$@"
exec "$@"
