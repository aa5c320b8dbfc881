package guestkernel

import _ "embed"

// ELF is the guest kernel: an ELF64 executable for x86-64 with a PVH note
// (XEN_ELFNOTE_PHYS32_ENTRY, type 18), whose segments lie within [1 MiB, 8 MiB) of guest-physical
// memory. It must not be changed.
//
//go:embed guest.elf
var ELF []byte
