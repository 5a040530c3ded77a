"""The set-up module: from a LaunchSpec over a list of operations to execve(2)."""
