"""The configuration files: YAML with positions, checked as a whole, turned into attrs classes.

Imports PyYAML and attrs, so it belongs into short-lived processes, never into the supervisor.
"""

from __future__ import annotations

from .container import Container, TcpPort, load_container
from .errors import ConfigErrors, Error
from .ownership import check_ownership
from .variables import settings, substitute

__all__ = [
    "ConfigErrors",
    "Container",
    "Error",
    "TcpPort",
    "check_ownership",
    "load_container",
    "settings",
    "substitute",
]
