"""The configuration files: YAML with positions, checked as a whole, turned into attrs classes.

`load_container` reads the one file of `lithos run`; `load_host` reads the four kinds of file of a host. Imports
PyYAML and attrs, so it belongs into short-lived processes, never into the supervisor.
"""

from __future__ import annotations

from .container import Container, check_container, load_container
from .errors import ConfigErrors, Error
from .host import Host, SandboxServices, Service, load_host
from .master import Master
from .ownership import check_ownership
from .ports import TcpPort
from .process import Process
from .sandbox import Sandbox
from .variables import settings, substitute

__all__ = [
    "ConfigErrors",
    "Container",
    "Error",
    "Host",
    "Master",
    "Process",
    "Sandbox",
    "SandboxServices",
    "Service",
    "TcpPort",
    "check_container",
    "check_ownership",
    "load_container",
    "load_host",
    "settings",
    "substitute",
]
