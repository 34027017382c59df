#!/bin/bash
# Healthy: the generator's heart beats, and echo is ready, that is it answers and its newest number is fresh.
# Sooner than the pid1 plugin, which restarts what hangs within 10 s.
# bash and find, for they cost a few milliseconds where Python costs fifty.
set -u
{ read -r echo && read -r beat; } <"$APPCOUP_RUN/alive" || { echo "app.sh has not started"; exit 1; }

if [ -z "$(find "$beat" -newermt '5 seconds ago' 2>&1)" ]; then
    echo "generator: no heartbeat in 5 s"
    exit 1
fi
{ exec 3<>"/dev/tcp/${echo%:*}/${echo##*:}"; } 2>/dev/null || { echo "echo: does not answer"; exit 1; }
printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
IFS= read -r -t 3 status <&3 || status="no answer in 3 s"
[[ $status == *" 200 "* ]] && exit 0
echo "echo: ${status%$'\r'}"
exit 1
