"""What outsiders see of a running supervisor: state files, readings of the kernel, tables, Prometheus text.

`store` is the half that the supervisor imports; everything else runs in the process of a command, so that
looking at a service costs its supervisor nothing.
"""
