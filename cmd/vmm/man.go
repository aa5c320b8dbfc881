package main

// rootSections are the sections of vmm(1) beyond those that every page has.
const rootSections = `

# EXIT STATUS
2 for a mistake in the command line, 1 for any other failure, 0 otherwise. **vmm run** exits with
the byte that the guest wrote to its exit port; with 0 when it was told to stop by **vmm stop** or
SIGTERM; with 130 or 129 on SIGINT or SIGHUP; with **--moved-status** once the guest was moved away.

# ENVIRONMENT
**VMM_RUNTIME_DIR**: the folder of the control sockets, instead of the ones below.

# FILES
*$XDG_RUNTIME_DIR/vmm/NAME.sock*, or */run/vmm/NAME.sock* where that variable is not set: the
control socket of the VM NAME.
`
