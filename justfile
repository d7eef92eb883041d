# The steps of .ci/run by name, for https://just.systems; each line works in a shell as well.

# list the recipes
default:
    @just --list

# a seed and eight nodes on this machine
demo *ARGS:
    cargo demo -- {{ARGS}}

# is the formatting right?
fmt:
    cargo fmt --all --check

# clippy, warnings denied
lint:
    cargo clippy --locked --workspace --all-targets -- -D warnings

# all tests; what needs root or packages is skipped by name
test:
    cargo test --locked --workspace

# the packages that the end-to-end tests need (Debian, root)
packages:
    .ci/install-lab-packages

# the documentation, broken links denied
doc:
    RUSTDOCFLAGS='-D warnings' cargo doc --locked --no-deps --workspace

# policy on licences, bans and sources
deny:
    cargo deny --locked check bans licenses sources

# everything that has to pass before a change lands
ci:
    CI=true .ci/run
