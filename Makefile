# Targets that people use carry a "## " comment, which `make help` prints.

GO      ?= go
# CGO_ENABLED=0: one static binary, and no C compiler needed to build it.
# -buildvcs: the revision, which results of vmm bench name, where git tells that of these sources; elsewhere, as in a
# checkout owned by another user, a build without it rather than none.
VCS     := $(shell [ "$$(git rev-parse --show-toplevel 2>/dev/null)" = "$(CURDIR)" ] && echo true || echo false)
GOBUILD := CGO_ENABLED=0 $(GO) build -buildvcs=$(VCS) -trimpath
# Tests that boot machines mostly wait for their guests: more of them at once than there are CPUs.
GOTEST  := $(GO) test -buildvcs=false -timeout 15m -parallel 4
CC      ?= cc

# Suites that need more than Go and /dev/kvm have build tags; lint looks at them all the same.
TAGS := qemu,stockkvm

.DEFAULT_GOAL := help

.PHONY: help
help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: preflight
preflight:
	@./scripts/preflight.sh

.PHONY: build
build: ## build bin/vmm, statically
	$(GOBUILD) -o bin/vmm ./cmd/vmm

.PHONY: demo
demo: preflight build ## a busy guest moves live to another process, under a minute
	@$(GOBUILD) -o bin/demo ./integration/demo
	@bin/demo -vmm bin/vmm

.PHONY: test
test: preflight ## all tests; again under the race detector if there is a C compiler
	$(GOTEST) ./...
	@./scripts/race.sh $(CC) -- $(GOTEST) -race

.PHONY: test-long
test-long: preflight ## the endurance tests at their full length
	TASKGUIDE_LONG=1 $(GOTEST) -timeout 60m -v -run BackAndForth ./integration

include integration/stockkvm/stockkvm.mk
include integration/guidance.mk

.PHONY: lint
lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
		echo "gofmt -w is needed for: $$unformatted" >&2; exit 1; fi
	$(GO) vet -tags $(TAGS) ./...
	$(GO) tool staticcheck -tags $(TAGS) ./...

.PHONY: fuzz-smoke
fuzz-smoke: ## every fuzz target for a few seconds (FUZZTIME=5s)
	@./scripts/fuzz-smoke.sh

.PHONY: guest
guest: ## rebuild the embedded guest's ELF from its sources (needs gcc)
	$(MAKE) -C guestkernel

.PHONY: guest-check
guest-check: ## fail unless the committed ELF is what the sources give
	$(MAKE) -C guestkernel check

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
