"""The process that acts: event loop, children, listeners, control socket, logs.

One thread, one epoll set, one deadline. It imports little (see tests/supervisor/test_imports.py), because every
instance begins as a copy of it; configuration is read by a short-lived process of its own, see ``loader``.
"""
