# Two commands for users: `make up` and `make test`. Both need nothing done by hand before, and may be run again.
# A user who is not root is asked for sudo where it is needed.

# Where Debian keeps iptables and its like: not on PATH after a plain `su`, nor for those who are not root.
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

SUDO := $(shell [ "$$(id -u)" = 0 ] || echo sudo)

# What has the machine's one node, is several machines, or looks at this one whole: each waits for its turn, and for pods, more than it works.
OF_NODES := bench clients cni command containerd crash disk nodes servers walk
# It takes all the cores there are.
ALONE := fuzz
# All others, by the names that cargo knows them by.
FILES := $(wildcard tests/*.rs */tests/*.rs */*/tests/*.rs)
FOLDERS := $(wildcard */tests/*/main.rs */*/tests/*/main.rs)
OTHERS := $(filter-out $(OF_NODES) $(ALONE),$(sort $(notdir $(basename $(FILES)) $(FOLDERS:/main.rs=))))

.PHONY: up test test-of-nodes test-others

# Installs what is missing, builds skiff, brings up a cluster on this machine.
up:
	./deploy/setup.sh up
	cargo build --release -p skiff
	$(SUDO) env "HOME=$$HOME" ./target/release/skiff up
	$(SUDO) env "HOME=$$HOME" kubectl --context skiff wait --for=condition=Ready nodes --all --timeout=60s
	$(SUDO) env "HOME=$$HOME" kubectl --context skiff get nodes

# Installs what is missing, builds once, then all floors of tests (ARCHITECTURE.md, "Tests"), in two rows side by side: what waits, and what works.
# One selection of packages for all of it: another would be another set of features, and another build of the world.
test:
	./deploy/setup.sh test
	cargo test --workspace --lib --bins --test '*' --no-run
	$(MAKE) --jobs=2 --keep-going --output-sync test-of-nodes test-others
	cargo test --workspace $(ALONE:%=--test %)

# Two clusters of machines at a time, and what needs no node beside the one that has it.
test-of-nodes: export RUST_TEST_THREADS = 2
test-of-nodes:
	cargo test --workspace $(OF_NODES:%=--test %) --no-fail-fast

# Clients of the other row give up after some seconds: who only works lets them go first.
test-others:
	nice -n 5 cargo test --workspace --lib --bins $(OTHERS:%=--test %) --no-fail-fast
