"""How long a start of /bin/true takes: this project's launcher beside bwrap, crun and others, all in one run."""
