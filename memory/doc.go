// Package memory is the guest's RAM as the host sees it, and the arithmetic of
// live migration over it: page slices, bitmaps, the zero-page test, digests.
//
// RAM is one memfd and one contiguous MAP_SHARED mapping. That makes the copy loop zero-copy: KVM
// maps the same pages into the guest, so the source hands a slice of the mapping to writev and the
// destination to readv, without a copy in between. The memfd also knows which pages were never
// touched: they are holes, read as zero, and cost nothing to skip.
//
// # Memory that goes away
//
// A guest may give memory back ([Guest.Release]); then its pages are holes again, until somebody
// touches them. So RAM does not only grow: what was found backed need not be so a moment later, and
// what was populated need not stay so. A released page counts as written, because it reads as zero
// from then on. Nothing lists the pages that the guest does without, because it takes them back
// without a word. [RAM.Holes] asks the memfd instead.
//
// # Page numbers
//
// A guest-physical address space has a hole for MMIO (3..4 GiB), RAM does not. A
// page number is an index into RAM, hole left out, so that one bitmap covers all
// of it:
//
//	guest-physical   0        min(size,3G)   3G ......... 4G          4G+rest
//	                 |---- low ----|          MMIO hole    |--- high ---|
//	page numbers     0 ........... n0                      n0 ......... Pages()
//	memfd offset     0 ........... n0*4096                 n0*4096 .... size
//
// The layout follows from the size alone, so both ends of a migration agree on it.
//
// # Live pages
//
// The guest writes while the host reads. A slice returned by this package may
// change between two loads; code that needs one stable version (a compressor, a
// checksum) copies the page first. The race detector does not see the guest's
// writes.
package memory
