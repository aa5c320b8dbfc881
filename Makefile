# Targets that people use carry a "## " comment, which `make help` prints.

GO      ?= go
# CGO_ENABLED=0: one static binary, and no C compiler needed to build it.
# -buildvcs: results of vmm bench name the revision. Where git does not tell it for these sources,
# as in a checkout owned by another user, the build leaves it out and does not fail.
TOP     := $(shell git rev-parse --show-toplevel 2>/dev/null)
VCS     := $(if $(filter $(CURDIR),$(TOP)),true,false)
GOBUILD := CGO_ENABLED=0 $(GO) build -buildvcs=$(VCS) -trimpath
# Tests that boot machines mostly wait for their guests, so more of them run at once than there are
# CPUs. -count=1: suites run a vmm that they build by exec, which Go's cache of test results does
# not see, so a cached pass would say nothing about today's sources.
GOTEST  := $(GO) test -buildvcs=false -timeout 30m -parallel 4 -count=1
CC      ?= cc

# Suites that need more than Go and /dev/kvm have build tags, and so has the generator of the manual
# pages. lint still checks all of them.
TAGS := qemu,stockkvm,man,examples,grub,mutants,sshnetns

.DEFAULT_GOAL := help

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: preflight
preflight:
	@./scripts/preflight.sh

.PHONY: build
build: ## build bin/vmm, vmm-bench, and vmm-tag for Linux guests, statically
	$(GOBUILD) -o bin/vmm ./cmd/vmm
	$(GOBUILD) -o bin/vmm-bench ./cmd/vmm-bench
	$(GOBUILD) -o bin/vmm-tag ./cmd/vmm-tag

include install.mk

.PHONY: demo
demo: preflight build ## a busy guest moves live to another process, under a minute
	@$(GOBUILD) -o bin/demo ./cmd/demo
	@bin/demo -vmm bin/vmm

.PHONY: test
test: preflight ## tests that need Go and /dev/kvm alone; with a C compiler, for races, too
	$(GOTEST) ./...
	@./scripts/race.sh $(CC) -- $(GOTEST) -race

.PHONY: test-long
test-long: preflight ## the endurance tests at their full length
	TASKGUIDE_LONG=1 $(GOTEST) -timeout 60m -v -run BackAndForth ./integration

.PHONY: test-mutants
test-mutants: preflight ## each rule of the handover is left out once, and a test must notice
	$(GOTEST) -tags mutants -v -run TestMutantsDie ./integration

# SSHD=PATH takes another sshd than the installed one.
.PHONY: test-ssh-netns
test-ssh-netns: preflight ## vmm bench custom by ssh between two network namespaces, as root
	$(GOTEST) -tags sshnetns -v -run TestBenchOverSSHInNamespaces ./integration

.PHONY: test-readme
test-readme: preflight ## README's tour, every command of it as a reader types it
	$(GOTEST) -v ./integration/readme

.PHONY: test-clean-debian
test-clean-debian: preflight ## clone, make install and README's tour in a fresh Debian, as root
	@./scripts/clean-debian.sh

.PHONY: test-slurm
test-slurm: preflight build ## the job array of examples/slurm, under Debian's Slurm, as root
	@./scripts/slurm.sh

.PHONY: test-slurm-sim
test-slurm-sim: build ## the job array of examples/slurm for simulations, without KVM, as root
	@./scripts/slurm.sh sim

.PHONY: test-matrix
test-matrix: ## every combination of delta, compress, channels, tracker and rule
	TASKGUIDE_LONG=1 $(GOTEST) -v -run Matrix ./migration ./integration

.PHONY: test-sim
test-sim: preflight build ## red where the simulator misses its target beside real moves; 1.5 h
	@./scripts/test-sim.sh

.PHONY: test-declared
test-declared: ## a million steps of a guest that declares, takes back, writes and frees memory
	TASKGUIDE_LONG=1 $(GOTEST) -timeout 60m -v -run DeclaringAtRandom ./migration

include integration/stockkvm/stockkvm.mk
include examples/examples.mk
include examples/workloads/workloads.mk
include integration/guidance.mk
include integration/openapi/openapi.mk

.PHONY: lint
lint: ## gofmt, go mod tidy, go vet, staticcheck; widths of lines and tables
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
		echo "gofmt -w is needed for: $$unformatted" >&2; exit 1; fi
	$(GO) mod tidy -diff
	cd examples/gomodule && $(GO) mod tidy -diff
	$(GO) vet -tags $(TAGS) ./...
	$(GO) tool staticcheck -tags $(TAGS) ./...
	$(GO) test -count=1 -run Style .

.PHONY: fuzz-smoke
fuzz-smoke: ## every fuzz target for a few seconds (FUZZTIME=5s)
	@./scripts/fuzz-smoke.sh

.PHONY: guest
guest: ## rebuild the embedded guest's ELF from its sources (needs gcc)
	$(MAKE) -C guestkernel

.PHONY: guest-check
guest-check: ## fail unless the committed ELF is what the sources give
	$(MAKE) -C guestkernel check

.PHONY: qemu
qemu: ## unpack a QEMU of today for vmm bench --qemu; installs nothing, prints its path
	@./scripts/qemu.sh

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
