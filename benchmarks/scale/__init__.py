"""Many instances: how long 500 take to check and to reload, what 1,000 cost, how fast the dead are replaced."""
