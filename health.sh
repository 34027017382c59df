#!/bin/bash
# Healthy: the generator lives, and echo is ready, which means that it answers and that its newest number is fresh.
# This notices a fault earlier than the pid1 plugin, which restarts a hung program after 10 s.
# bash and find take a few milliseconds, Python takes fifty, so Python is used only for TLS.
set -u
if [ -z "$(find "${GENERATOR_HEARTBEAT:-$APPCOUP_RUN/generator.alive}" -newermt '5 seconds ago' 2>&1)" ]; then
    echo "generator: no heartbeat in 5 s"
    exit 1
fi
url=$(cat "${ECHO_HEARTBEAT:-$APPCOUP_RUN/echo.alive}" 2>/dev/null) || { echo "echo: has not started"; exit 1; }
address=${url#*//}
host=${address%:*} host=${host#[}
if [[ $url == https:* ]]; then
    exec python -c "
import ssl, sys, urllib.request
urllib.request.urlopen(f'https://{sys.argv[1]}/readyz', timeout=4, context=ssl._create_unverified_context())" "$address"
fi
{ exec 3<>"/dev/tcp/${host%]}/${address##*:}"; } 2>/dev/null || { echo "echo: does not answer"; exit 1; }
printf 'GET /readyz HTTP/1.0\r\n\r\n' >&3
IFS= read -r -t 3 status <&3 || status="no answer in 3 s"
[[ $status == *" 200 "* ]] && exit 0
echo "echo: ${status%$'\r'}"
exit 1
