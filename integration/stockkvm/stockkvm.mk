# Stock KVM on any machine: an emulated host under QEMU, see integration/stockkvm.

.PHONY: stockkvm-deps
stockkvm-deps: ## install QEMU for the emulated stock-KVM host, if it is missing
	@command -v qemu-system-x86_64 >/dev/null || { \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -qq && \
		$$sudo apt-get install -y -qq --no-install-recommends qemu-system-x86; }

.PHONY: test-stock-kvm
test-stock-kvm: stockkvm-deps ## the KVM-dependent tests on stock KVM, in an emulated host
	@$(GO) run -buildvcs=false ./integration/stockkvm/cmd/stockkvm test

.PHONY: test-stock-kvm-rig
test-stock-kvm-rig: stockkvm-deps ## the rig's own tests: red when anything inside breaks
	$(GOTEST) -tags stockkvm -count=1 -v ./integration/stockkvm

.PHONY: shell-stock-kvm
shell-stock-kvm: stockkvm-deps ## a shell on an emulated stock-KVM host, with vmm in it
	@$(GO) run -buildvcs=false ./integration/stockkvm/cmd/stockkvm shell

.PHONY: test-qemu
test-qemu: stockkvm-deps ## the embedded guest boots and migrates under QEMU, on microvm and pc
	$(GOTEST) -tags qemu -count=1 ./integration/qemu
