# Stock KVM on any machine: emulated hosts under QEMU, see the documentation of package integration/stockkvm.

TWO_HOSTS := TenMovesBetweenTwoHosts|LesserCPUIsRefused|DoctorOnStockKVM

.PHONY: stockkvm-deps
stockkvm-deps: ## install QEMU, if it is missing, for the targets below
	@command -v qemu-system-x86_64 >/dev/null || { \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -qq && \
		$$sudo apt-get install -y -qq --no-install-recommends qemu-system-x86; }

.PHONY: test-stock-kvm
test-stock-kvm: stockkvm-deps ## the KVM-dependent tests on stock KVM, in an emulated host
	@$(GO) run -buildvcs=false ./integration/stockkvm/cmd/stockkvm test

.PHONY: test-two-hosts
test-two-hosts: stockkvm-deps ## ten moves between two emulated hosts, and a refused one
	$(GOTEST) -tags stockkvm -count=1 -v -run '$(TWO_HOSTS)' ./integration/stockkvm

.PHONY: test-stock-kvm-rig
test-stock-kvm-rig: stockkvm-deps ## the rig's own tests: red when anything inside breaks
	$(GOTEST) -tags stockkvm -count=1 -v -skip '$(TWO_HOSTS)' ./integration/stockkvm

.PHONY: shell-stock-kvm
shell-stock-kvm: stockkvm-deps ## a shell on an emulated stock-KVM host, with vmm in it
	@$(GO) run -buildvcs=false ./integration/stockkvm/cmd/stockkvm shell

.PHONY: test-qemu
test-qemu: stockkvm-deps ## the embedded guest boots and migrates under QEMU, on microvm and pc
	$(GOTEST) -tags qemu -count=1 ./integration/qemu
