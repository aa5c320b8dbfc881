// Package linux moves Linux guests that this project did not make: an unchanged kernel of a
// distribution, under vmm. It does so in an emulated host with stock KVM (integration/stockkvm),
// because Linux may not boot elsewhere. Its tests have the build tag stockkvm.
//
//	move_test.go       the serial console, a shutdown; what the other tests share
//	disk_test.go       ext4 on a disk, and the death of the guest
//	store_test.go      the same between two hosts that share a store, and the death of a host
//	net_test.go        a network card, without privileges
//	talk_test.go       hvc0 and vsock; folder peer has the guest's program
//	balloon_test.go    memory that the guest gives back
//	tags_test.go       task guidance through vmm-tag
//	tagmoves_test.go   programs that look where the machine moved; folder tagged has them
//	tagkills_test.go   the same while they are killed
//	tagports_test.go   the ports of examples/ports
//	clocks_test.go     clocks with several vCPUs; folder clocks has the guest's program
//	smp_test.go        many boots with several vCPUs
//	boottime_test.go   how long boots take, beside QEMU
//	multiboot_test.go  other kernels
//	memtest_test.go    memtest86+
//
// `make test-linux` runs what CI has time for. `make help` names the targets of the rest.
package linux
