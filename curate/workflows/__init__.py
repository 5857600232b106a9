"""The order of steps: what each command does, over the floors below."""
