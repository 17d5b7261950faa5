"""The command line. Every command is a module with `add_parser(subparsers)` and `run(args)`."""
