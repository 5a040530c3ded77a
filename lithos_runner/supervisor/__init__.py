"""The process that acts: event loop, children, listeners, control socket, logs.

One thread, one epoll set, one deadline. It imports little (tests/supervisor/test_supervisor_imports.py has the list),
because every instance begins as a copy of it; configuration is read by a short-lived process, see ``loader``.
"""
