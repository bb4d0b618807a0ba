"""The project's own benchmarks: a module each, with `bench(data, seed, input, full)`."""
