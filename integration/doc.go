// Package integration tests the vmm binary from outside: real processes with real guests on KVM, steered by the command
// line and the control sockets, as users and scripts do it, and with peers and connections that fail in every
// way we could think of.
//
// What every test of a migration comes down to: exactly one of two processes runs the guest afterwards, the one that
// the exit status of vmm migrate names, and the guest itself finds every page of its memory as it left it.
//
// Below this folder are the rigs that other suites share: heartbeat reads what the guest says, qemu runs the same
// guest under QEMU, stockkvm makes an emulated host with stock KVM, demo is what make demo shows.
package integration
