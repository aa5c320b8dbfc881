// Package dirtylog finds out which pages of a running guest were written.
//
// Live migration copies memory while the guest goes on writing it, so it needs to
// know, again and again, what has changed since it last looked. KVM can tell: with
// logging on, it write-protects the guest's pages, and the first write to a page
// faults into the kernel, which notes the page as dirty and lets the write through.
// Every later write to it is free until somebody protects the page again.
//
// A [Tracker] turns that into a few calls:
//
//	Start    from here on, no write goes unnoticed
//	Harvest  the pages written since the last harvest, and protect them again
//	Protect  do that only now, if the tracker leaves it to its user
//	Stop     logging off, the guest at full speed
//
// Its users follow one rule: harvest first, and read the pages afterwards. Harvesting takes a page
// off the list and protects it in one step. A write that comes between the harvest and the read is
// noted for the next harvest, and the page is sent once more. In the other order, a write between
// the read and the harvest would be taken off the list without ever having been sent.
//
// Only writes by vCPUs are logged. What the host itself writes into guest RAM (device models, a
// shared page) goes past the protection. The code that writes it must add the page, after the
// write.
//
// There are three ways. They differ in when pages are protected again and in what a harvest costs:
//
//	get-dirty-log    protects at the harvest; one bit a page of RAM; every KVM has it
//	manual-protect   protects when told to, just before a page is read, so that a page
//	                 written between harvest and read is sent once: see Tracker.OnDemand
//	ring             a list of pages instead of a bitmap: costs what is dirty, however
//	                 large RAM is
//
// Page numbers are indices into the guest's RAM as package memory numbers it, while
// KVM counts from the start of each memory slot; [Slot] says how the two relate.
package dirtylog
