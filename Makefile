# Two commands for users: `make up` and `make test`. Both need nothing done by hand before, and may be run again.
# A user who is not root is asked for sudo where it is needed.

# Where Debian keeps iptables and its like: not on PATH after a plain `su`, nor for those who are not root.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

.PHONY: up test

# Installs what is missing, builds skiff, brings up a cluster on this machine.
up:
	./deploy/setup.sh up
	cargo build --release -p skiff
	$(SUDO) env "HOME=$$HOME" ./target/release/skiff up
	$(SUDO) env "HOME=$$HOME" kubectl --context skiff wait --for=condition=Ready nodes --all --timeout=60s
	$(SUDO) env "HOME=$$HOME" kubectl --context skiff get nodes

# Installs what is missing, builds once, then all floors of tests: tables first, then rooms, house and street (ARCHITECTURE.md, "Tests").
# One selection of packages for all of it: another would be another set of features, and another build of the world.
test:
	./deploy/setup.sh test
	cargo test --workspace --lib --bins --no-fail-fast
	cargo test --workspace --test '*' --no-fail-fast
