"""Pure decisions: values in, decisions out. No clock, no descriptor, no process id, no sleep."""
