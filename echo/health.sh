#!/bin/bash
# Healthy: echo answers.
# bash takes a few milliseconds, Python takes fifty, so Python is used only for TLS.
set -u
host=${ECHO_LISTEN%:*} port=${ECHO_LISTEN##*:}
case $host in
    "$ECHO_LISTEN" | '' | 0.0.0.0 | '[::]') host=127.0.0.1 ;;
esac

if [ -n "${ECHO_TLS_CERT:-}" ]; then
    exec python -c "
import ssl, sys, urllib.request
urllib.request.urlopen(f'https://{sys.argv[1]}/healthz', timeout=4, context=ssl._create_unverified_context())" "$host:$port"
fi
host=${host#[} host=${host%]}
{ exec 3<>"/dev/tcp/$host/$port"; } 2>/dev/null || { echo "echo: does not answer"; exit 1; }
printf 'GET /healthz HTTP/1.0\r\n\r\n' >&3
IFS= read -r -t 4 status <&3 || status="no answer in 4 s"
[[ $status == *" 200 "* ]] && exit 0
echo "echo: ${status%$'\r'}"
exit 1
