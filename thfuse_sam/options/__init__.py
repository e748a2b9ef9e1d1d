"""One frozen dataclass for each command: every option with its default, its range and its help, once. Free of torch."""
