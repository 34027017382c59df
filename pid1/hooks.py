"""Hooks the plugin into supervisord, which imports this module while it reads its configuration.

supervisord reads the programs' sections later. So the plugin can add keys to them and format the log from the start.
"""

from __future__ import annotations

import os
import platform
from typing import Any

from supervisor.datatypes import Automatic
from supervisor.options import ServerOptions

from pid1.order import stop_turns
from pid1.output import Format, LogHandler, Output
from pid1.plugin import Pid1
from pid1.settings import PROGRAM, ProgramSettings, parse, parse_plugin, refuse_misspelt

STREAMS = {"/dev/stdout": 1, "/dev/fd/1": 1, "/dev/stderr": 2, "/dev/fd/2": 2}
HOOKS = ("_processes_from_section", "process_groups_from_parser", "make_logger")
STOCK = {name: getattr(ServerOptions, name) for name in HOOKS}


def make_plugin(supervisord: Any, **settings: str) -> object:
    """Return the XML-RPC methods. supervisord calls this once for each HTTP server; the plugin needs none."""
    return supervisord.pid1.rpc


def plugin_texts(factories: Any) -> dict[str, str] | None:
    """Return the settings in the plugin's section, or None without such a section."""
    return next((texts for _, factory, texts in factories if factory is make_plugin), None)


def _processes_from_section(options: Any, parser: Any, section: str, group_name: str, klass: Any = None) -> Any:
    """Return a program's processes with the plugin's settings, which `supervisorctl update` also compares."""
    configs = STOCK["_processes_from_section"](options, parser, section, group_name, klass)
    refuse_misspelt(parser.options(section))
    name = section.partition(":")[2].strip()
    expansions = {"here": options.here, "host_node_name": platform.node(), "program_name": name}
    expansions.update(group_name=group_name, numprocs=len(configs))
    for number, config in enumerate(configs, int(parser.saneget(section, "numprocs_start", 0))):
        expansions["process_num"] = number
        keys = [key for key in PROGRAM if parser.has_option(section, key)]
        texts = {key: parser.saneget(section, key, expansions=expansions) for key in keys}
        config.pid1 = ProgramSettings(name, take_output(config), **parse(PROGRAM, texts))
        config.optional_param_names = [*config.optional_param_names, "pid1"]
    return configs


def take_output(config: Any) -> tuple[tuple[str, int], ...]:
    """Disable supervisord's own log to stdout, stderr or a temporary file, because its writes block.

    Returns each channel with the file descriptor for its lines, or 0 if supervisord keeps writing to a log file.
    """
    taken = []
    for channel, fd in (("stdout", 1), ("stderr", 2)):
        logfile = getattr(config, f"{channel}_logfile")
        ours = STREAMS.get(logfile, fd if logfile is Automatic and not getattr(config, f"{channel}_syslog") else 0)
        if ours:
            setattr(config, f"{channel}_logfile", None)
        taken.append((channel, ours))
    return tuple(taken)


def process_groups_from_parser(options: Any, parser: Any) -> Any:
    """Return the process groups. Raises ValueError, which supervisord and `supervisorctl update` show."""
    groups = STOCK["process_groups_from_parser"](options, parser)
    try:
        parse_plugin(plugin_texts(options.configroot.supervisord.rpcinterface_factories) or {})
    except ValueError as error:
        raise ValueError(f"[rpcinterface:pid1] {error}") from None
    settings = [config.pid1 for group in groups for config in group.process_configs]
    stop_turns({each.program: [name for name, _ in each.depends_on] for each in settings})
    return groups


def make_logger(options: Any) -> None:
    """Open supervisord's log, which the programs share, and schedule the plugin's start."""
    texts = plugin_texts(options.rpcinterface_factories)
    if texts is None:
        return STOCK["make_logger"](options)
    settings = parse_plugin(texts)
    output = Output(Format(settings.log_format == "json", settings.log_time))
    options.nodaemon |= os.getpid() == 1  # if PID 1 went into the background, the container would end
    shown, options.silent = options.nodaemon and not options.silent, True
    early = options.parse_criticals, options.parse_warnings, options.parse_infos
    options.parse_criticals, options.parse_warnings, options.parse_infos = [], [], []
    STOCK["make_logger"](options)
    log = options.logger
    if shown:
        log.addHandler(LogHandler(output, options.loglevel))
    for write, messages in zip((log.critical, log.warn, log.info), early):
        for message in messages:
            write(message)
    stock_openhttpservers = options.openhttpservers

    def openhttpservers(supervisord: Any) -> None:
        supervisord.pid1 = Pid1(supervisord, settings, output)
        stock_openhttpservers(supervisord)

    options.openhttpservers = openhttpservers


for name in HOOKS:
    setattr(ServerOptions, name, globals()[name])
