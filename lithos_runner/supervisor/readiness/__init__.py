"""Whether an instance serves: what it says (notifications), what the kernel shows (listening), what it answers (http).

Nothing here decides; each module reports to the supervisor, which owns the timeout and tells the instance's machine.
"""
