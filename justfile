# The checks and benchmarks of this repository; each recipe is one script.

# show the recipes
default:
    @just --list

# the whole product on a built-in tiny model
demo:
    cargo run --release -- demo

# every test, against the real mlx_lm.server too
test *filter:
    scripts/test {{filter}}

# format, clippy, documentation, shell syntax
lint:
    scripts/lint

# compile, lint and link for macOS, on Linux
check-macos:
    scripts/check-macos

# a thousand faults, every promise checked after each
chaos faults="1000":
    scripts/chaos --faults {{faults}}

# everything that CI runs
ci:
    .ci/run

# one of the benchmarks: supervisor, gate, memory, sequence, speed, cluster, agrees, families
bench name *arguments:
    scripts/bench-{{name}} {{arguments}}

# redraw docs/status.svg from a real run
picture:
    cargo build --release
    scripts/picture
