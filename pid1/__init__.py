"""What supervisord lacks as PID 1 of a container: a plugin for the stock `supervisord` command.

Copy this folder onto PYTHONPATH and add four lines to supervisord.conf (README.md has the settings):
    [unix_http_server]
    file = /tmp/supervisor.sock
    [rpcinterface:pid1]
    supervisor.rpcinterface_factory = pid1:make_plugin
"""

from pid1.plugin import make_plugin as make_plugin
