// Package linux moves Linux guests that this project did not make: an unchanged kernel of a
// distribution, under vmm. It does so in an emulated host with stock KVM (integration/stockkvm),
// because Linux may not boot elsewhere. Its tests have the build tag stockkvm; `make test-linux`
// runs them.
package linux
