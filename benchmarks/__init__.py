"""The project's own benchmarks: each module has `bench(data, seed, input, full)`; `homeostat bench --list` names them."""
