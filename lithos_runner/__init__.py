"""A cgroup-aware container runner that hands listening sockets to isolated instances."""
