// Package version says what a build of the program is, and what it understands of other builds.
//
// Two hosts need not run the same build; docs/compatibility.md has the rules. An operator who
// upgrades one of them wants to know, before a guest moves, whether it could move back. [Info] has
// what decides that: the versions of the migration protocol, and the sections of a machine's state,
// each as a range. `vmm version` prints it. GET /v1/version returns the Info of the process that
// runs a VM, which may be older than the vmm on disk.
//
// Go stamps the version into the binary: the tag or the commit of the sources. A release that is
// built without a repository sets it by the linker (-X, see the Makefile).
package version
