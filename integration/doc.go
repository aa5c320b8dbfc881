// Package integration tests the vmm binary from outside: real processes with real guests on KVM,
// steered by the command line and the control sockets as users and scripts do it. Peers and
// connections fail in every way that we could think of.
//
// Every test of a migration checks this: afterwards, exactly one of two processes runs the guest,
// the exit status of vmm migrate says which, and the guest finds every page of its memory
// unchanged.
//
// Most tests need nothing but KVM. With the build tag sshnetns, sshnetns_test.go has vmm bench move
// guests by ssh between two network namespaces, which sshnetns.sh makes. It needs root and sshd.
//
// Nothing imports this folder. Below it are
//
//	stockkvm   the rig: anybody's commands, and other packages' tests, on stock KVM
//	linux      Linux guests on an emulated host, moved
//	redis      a Debian guest that serves redis, moved between two hosts
//	workloads  makes the Linux guests of examples/workloads; folder load keeps them busy
//	readme     README's tour, typed
//	openapi    a module of its own: a client that is generated of docs/openapi.yaml
//	need       what ends a test that lacks something here
package integration
