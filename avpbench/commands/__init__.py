"""What can be asked beside a run: one module a command, each with `main(words)` that returns the exit status."""
