// Package trace is the format of recorded dirty logs: which pages a guest wrote, interval by
// interval. A simulator of migrations needs the sets and not their sizes, because a round ends with
// the pages that were written again.
//
// A trace is lines of JSON, compressed by gzip (RFC 1952). The first line is the [Header], the
// second the [Contents]. Every other line is a [Record], and has one of these:
//
//	dirty    the pages written since the last record with dirty, or since the first moment
//	event    what happened: tags, beats, phases of a migration; see docs/control.md
//	end      how the recording ended; the last line of a whole trace
//
// A set of pages is an object with one key, whichever is shorter:
//
//	{"runs": [gap, length, gap, length, ...]}  pages that are left out, then pages of the set, ...
//	{"bits": "..."}                            base64; page n is bit n%8 of byte n/8
//
// Times are microseconds since the recording's first moment.
package trace
