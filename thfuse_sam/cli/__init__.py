"""Command lines: flags, option files, log lines and exit statuses."""
