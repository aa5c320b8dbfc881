// Package state is the form in which a machine's state travels: a list of named, versioned
// sections.
//
// # The idea
//
// Two hosts rarely run the same program, because one of them is upgraded first. If a state were one
// block of bytes with one version in front, only one program could read it. So a state is cut into
// sections, and each says by itself what it is:
//
//	name       "serial", "regs": what it is the state of
//	vCPU       which vCPU's, or the whole machine's
//	version    of the bytes that follow
//	optional   whether the guest can do without it
//
// # Who reads what
//
// A program has a [Catalog] of the sections that it reads, each with a range of versions. It judges
// each section of a state by the catalog:
//
//	known, version in the range          read
//	known, version outside of it         refused, by name
//	unknown, optional                    skipped
//	unknown, mandatory                   refused, by name
//	not there, though the reader knows it  the reader judges: see docs/compatibility.md
//
// A section is optional if a guest whose state lacks it goes on correctly, only worse: statistics,
// a cache that fills up again. Everything that the guest can see or rely on is mandatory. A new
// version is refused even of an optional section. To let older programs skip new bytes, give them a
// section name of their own.
//
// # At setup, not at the end
//
// The state travels last, when the guest stands still. A refusal at that point would waste all that
// was sent before. So the machine's configuration, which travels first, announces the names and
// versions of the sections that the state will have, as a list of [Kind], and the destination
// judges the list by the same catalog before a page is sent.
package state
