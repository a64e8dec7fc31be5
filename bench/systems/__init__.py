"""What is measured: a module for each server, whose `start` is a `bench.system.Start`."""
