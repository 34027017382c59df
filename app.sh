#!/bin/sh
# Runs the application in the foreground: in its image, and on a bare machine, where the data file is ./data.
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
[ -w "$APPCOUP_RUN" ] || fail "$APPCOUP_RUN is not writable, and a socket and a heartbeat must be: mount a tmpfs there, as --tmpfs /tmp"

export PATH="$APPCOUP_VENV/bin:$PATH" APPCOUP_RUN
export PYTHONPATH="$here" PYTHONSAFEPATH=1 # the programs are here; what lies in the caller's folder is no module
export GENERATOR_FILE="${GENERATOR_FILE:-data}" GENERATOR_HEARTBEAT="${GENERATOR_HEARTBEAT:-$APPCOUP_RUN/generator.alive}"
export ECHO_SOURCE="${ECHO_SOURCE:-$GENERATOR_FILE}" ECHO_LISTEN="${ECHO_LISTEN:-0.0.0.0:8000}"

# Where supervisord, and health.sh, ask echo whether it is alive.
case $ECHO_LISTEN in
    0.0.0.0:* | \[::\]:* | :*) APPCOUP_ECHO=127.0.0.1:${ECHO_LISTEN##*:} ;;
    \[*) fail "ECHO_LISTEN=$ECHO_LISTEN: of IPv6 there is [::]:PORT, for all addresses" ;;
    *:*) APPCOUP_ECHO=$ECHO_LISTEN ;;
    *) APPCOUP_ECHO=127.0.0.1:$ECHO_LISTEN ;;
esac
port=${APPCOUP_ECHO##*:}
case $port in
    '' | *[!0-9]* | ??????*) port=0 ;;
esac
[ "$port" -ge 1 ] && [ "$port" -le 65535 ] || fail "ECHO_LISTEN=$ECHO_LISTEN: give [HOST:]PORT with a port from 1 to 65535"
case $GENERATOR_HEARTBEAT in
    /*) ;;
    *) GENERATOR_HEARTBEAT=$PWD/$GENERATOR_HEARTBEAT ;;
esac
[ -z "${ECHO_TLS_CERT:-}" ] || fail "ECHO_TLS_CERT: here the programs are looked after over plain http: run echo by itself, as its own image does"
export APPCOUP_ECHO
printf '%s\n%s\n' "$APPCOUP_ECHO" "$GENERATOR_HEARTBEAT" >"$APPCOUP_RUN/alive"

# A generator with a count is done with status 0; without one it is restarted, whoever ended it.
case ${GENERATOR_COUNT:-0} in
    *[!0]*) APPCOUP_RESTART=unexpected ;;
    *) APPCOUP_RESTART=true ;;
esac
export APPCOUP_RESTART

# pid1 blocks signals, so that none is lost before supervisord has its handlers. Until Python runs, the kernel drops
# those to a PID 1 without handlers, so in a container they are blocked already here.
set -- python -m pid1 -c "$here/supervisord.conf"
[ $$ -ne 1 ] || set -- env --block-signal=TERM --block-signal=INT --block-signal=QUIT --block-signal=HUP --block-signal=USR1 --block-signal=USR2 "$@"
exec "$@"
