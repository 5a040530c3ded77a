"""What clients see of a roll-out, a crash and a bad version: this project beside other supervisors, in one run."""
