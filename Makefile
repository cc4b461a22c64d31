# Two commands for users: `make up` and `make test`. Both need nothing done by hand before, and may be run again.
# As a user who is not root they ask for sudo where it is needed.

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: up test setup-test

# Installs what is missing, builds skiff, brings up a cluster on this machine.
up:
	./deploy/setup.sh up
	cargo build --release -p skiff
	$(SUDO) env "HOME=$$HOME" ./target/release/skiff up
	$(SUDO) env "HOME=$$HOME" kubectl --context skiff wait --for=condition=Ready nodes --all --timeout=60s
	$(SUDO) env "HOME=$$HOME" kubectl --context skiff get nodes

# Installs what is missing, then all floors of tests: the least powerful first (see ARCHITECTURE.md).
test: setup-test
	cargo test --workspace --exclude e2e --no-fail-fast
	cargo build --workspace --bins
	cargo test -p e2e --no-fail-fast

setup-test:
	./deploy/setup.sh test
