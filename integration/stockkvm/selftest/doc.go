// Package selftest holds the rig's own test of the host under it: the smallest programs that only a
// working KVM runs. If these fail, the results of all other suites on that host mean nothing.
package selftest
