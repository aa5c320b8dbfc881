// Package stockkvm runs programs and test suites on a stock KVM, on any machine.
//
// Users have kvm_amd or kvm_intel: a processor with hardware virtualization under
// a kernel module of the distribution. A development machine or a CI runner often
// has neither, because it is itself a virtual machine. QEMU's software emulation
// offers the instructions of AMD's SVM, so that a stock kernel inside it has a
// stock /dev/kvm: real in every behaviour, and much slower than metal.
//
// # What runs where
//
//	this machine            the emulated host                the virtual machine
//	------------            -----------------                -------------------
//	Rig, Host    <--------> agent, process 1
//	  virtio-serial port      runs /suites/*/*.test  ------> guests of the tests
//	  (package wire)          runs vmm               ------> the embedded guest
//	QEMU, software          Debian's cloud kernel,
//	emulation               kvm_amd
//
// A Rig fetches the kernel and busybox as distribution packages into a cache (nothing is
// installed), and packs them with the agent and static binaries into an initramfs. StartHost boots
// it and returns once the agent says hello and /dev/kvm opens. The agent waits with its hello until
// the kernel has measured its TSC, because KVM would tell machines a first guess before. Host.Run
// and Host.Start run programs inside, with their output. Host.RunSuites runs test binaries and
// counts. The command stockkvm does all this for any script. The agent is the same program under
// another name, so it needs no sources. docs/rig.md is its manual.
//
// # Failing loudly
//
// A rig that reports success when nothing ran is worse than no rig. So silence is a failure
// everywhere. The kernel panics when process 1 ends, a panic ends QEMU, and the end of QEMU fails
// every job with the kernel's words and the console's tail. Booting has a deadline, and so has
// every suite. A suite that ran no test has failed. A test that began and did not end has failed,
// as far as the rig heard of it: the last words of a dying host are lost, but its death fails the
// suite.
//
// # Two hosts
//
// Wire returns a connected pair of sockets. With one end each, two hosts share a private network
// that exists nowhere else. Their time-stamp counters start when they boot, so two hosts that were
// not started together differ in all clocks except the wall clock, which SetClock sets in both.
package stockkvm
