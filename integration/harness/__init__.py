"""The test host: a Debian virtual machine made, booted and read back by `integration/vm`."""
