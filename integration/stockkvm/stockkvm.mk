# Stock KVM on any machine, in emulated hosts under QEMU. Package integration/stockkvm explains it.

TWO_HOSTS := TenMovesBetweenTwoHosts|ClocksAfterABadGuess|LesserCPUIsRefused|DoctorOnStockKVM

# An experiment between two hosts, which has a target of its own.
OVER_SSH := BenchOverSSH

# Tests of Linux guests that have targets of their own.
LINUX_MORE := Multiboot|GivesMemoryBack|GivesGarbageBack|TalksAcrossMoves
LINUX_LONG := $(LINUX_MORE)|Memtest|OverTwenty|SMPLinux|BetweenHosts|BootTimeTable
LINUX_LONG := $(LINUX_LONG)|Devices(Move)?Table|HeedSegments|KillsAmongMoves|TestPorts
LINUX_LONG := $(LINUX_LONG)|OutlivesKills

.PHONY: stockkvm-deps
stockkvm-deps: ## install QEMU, if it is missing, for the targets below
	@command -v qemu-system-x86_64 >/dev/null || { \
		sudo=; [ "$$(id -u)" = 0 ] || sudo=sudo; \
		$$sudo apt-get update -qq && \
		$$sudo apt-get install -y -qq --no-install-recommends qemu-system-x86; }

.PHONY: stockkvm
stockkvm: build stockkvm-deps ## build bin/stockkvm: your own commands on emulated stock-KVM hosts
	$(GOBUILD) -o bin/stockkvm ./integration/stockkvm/cmd/stockkvm

.PHONY: test-stock-kvm
test-stock-kvm: stockkvm-deps ## the KVM-dependent tests on stock KVM, in an emulated host
	@$(GO) run -buildvcs=false ./integration/stockkvm/cmd/stockkvm test

.PHONY: test-two-hosts
test-two-hosts: stockkvm-deps ## ten moves between two emulated hosts, and a refused one
	$(GOTEST) -tags stockkvm -timeout 25m -v -run '$(TWO_HOSTS)' ./integration/stockkvm

.PHONY: test-ssh
test-ssh: stockkvm-deps ## vmm bench custom between two emulated hosts by ssh; nothing stays
	$(GOTEST) -tags stockkvm -timeout 30m -v -run '$(OVER_SSH)' ./integration/stockkvm

.PHONY: test-stock-kvm-rig
test-stock-kvm-rig: stockkvm-deps ## the rig's own tests: red when anything inside breaks
	$(GOTEST) -tags stockkvm -v -p 1 -skip '$(TWO_HOSTS)|$(OVER_SSH)' \
		./integration/stockkvm ./integration/stockkvm/cmd/stockkvm

.PHONY: test-linux
test-linux: stockkvm-deps ## Debian as a guest, moved, in emulated hosts; redis in it, moved twice
	$(GOTEST) -timeout 50m -tags stockkvm -v -p 1 \
		-skip '$(LINUX_LONG)' \
		./integration/linux ./integration/redis

.PHONY: test-redis
test-redis: stockkvm-deps ## a guest that serves redis moves 20 times between two hosts; 10 minutes
	$(GOTEST) -tags stockkvm -timeout 60m -v -run OverTwenty ./integration/redis

.PHONY: test-linux-smp
test-linux-smp: stockkvm-deps ## Debian's kernel with 2 and 4 vCPUs, 20 boots, a move each; minutes
	$(GOTEST) -timeout 120m -tags stockkvm -v -run SMPLinux ./integration/linux

.PHONY: bench-linux-boot
bench-linux-boot: stockkvm-deps ## boot times of Debian's kernel under vmm and QEMU, as tables
	$(GOTEST) -timeout 120m -tags stockkvm -v -run BootTimeTable ./integration/linux

.PHONY: bench-linux-devices
bench-linux-devices: stockkvm-deps ## a Linux guest's disk and card under vmm and QEMU, as tables
	$(GOTEST) -timeout 120m -tags stockkvm -v -run 'Devices(Move)?Table' ./integration/linux

.PHONY: test-shared-store
test-shared-store: stockkvm-deps ## a guest moves between two hosts with its disk, and its host dies
	$(GOTEST) -tags stockkvm -timeout 30m -v -run BetweenHosts ./integration/linux

.PHONY: test-linux-kills
test-linux-kills: stockkvm-deps ## either end dies at each step of a handover; ext4 loses nothing
	$(GOTEST) -tags stockkvm -timeout 120m -v -run OutlivesKills ./integration/linux

.PHONY: test-linux-more
test-linux-more: stockkvm-deps ## hvc0, vsock, balloon, Mach, Xen: what CI has no time for
	$(GOTEST) -tags stockkvm -timeout 60m -v -run '$(LINUX_MORE)' ./integration/linux

.PHONY: test-tags
test-tags: stockkvm-deps ## programs without rights in ten guided moves; what a tag costs in Linux
	$(GOTEST) -timeout 60m -tags stockkvm -v -run HeedSegments ./integration/linux

.PHONY: test-tags-kills
test-tags-kills: stockkvm-deps ## 200 moves while tagged programs are killed; TAGS_OUT to go on
	$(GOTEST) -timeout 12h -tags stockkvm -v -run KillsAmongMoves ./integration/linux
	TASKGUIDE_LONG=1 $(GOTEST) -v -run TestKills ./cmd/vmm-tag

.PHONY: test-ports
test-ports: stockkvm-deps ## redis, http-echo and a build, patched to tag, in guided moves
	$(GOTEST) -timeout 70m -tags stockkvm -v -run TestPorts ./integration/linux

.PHONY: test-memtest
test-memtest: stockkvm-deps ## memtest86+ as a guest, moved ten times within a pass; takes minutes
	$(GOTEST) -tags stockkvm -v -run Memtest ./integration/linux

.PHONY: shell-stock-kvm
shell-stock-kvm: stockkvm ## a shell on an emulated stock-KVM host, with vmm in it
	@bin/stockkvm shell

.PHONY: test-qemu
test-qemu: stockkvm-deps ## the embedded guest boots and migrates under QEMU, on microvm and pc
	$(GOTEST) -tags qemu ./bench/peer/qemu
