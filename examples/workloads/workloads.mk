.PHONY: workloads
workloads: ## Linux guests with redis, memcached, sqlite, a build and a Go heap, in bin/workloads
	$(GO) run -buildvcs=false ./integration/workloads -out bin/workloads

.PHONY: test-workloads
test-workloads: preflight build workloads ## each guest of examples/workloads is moved once
	@./scripts/test-workloads.sh
