"""`tuner install` and `tuner uninstall`: the service as systemd units, from this environment."""
