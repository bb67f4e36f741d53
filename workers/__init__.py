"""Long-running processes and the command line: everything that knows Kafka, files, signals and ports."""
