"""The images of a host: which the configuration uses or used, which lie on the disk, and how others are removed."""
