package sim

import (
	"time"

	"taskguide/memory"
)

// packToUnpack is how much longer compressing a page takes than decompressing it, by what both ends
// of real moves took of the processors. It depends on what is in pages.
const packToUnpack = 4

// leastSpeed leaves the guest some speed, so that its time goes on.
const leastSpeed = 0.05

// othersTake is how much of a processor everything else takes while a guest moves on one host: the
// network, consoles, and who watches.
const othersTake = 0.15

// vcpuWeight is how much more of the processors a vCPU gets than a sender that needs as much: it
// seldom sleeps, and both ends wake each other up for each frame. In real moves of matmul on two
// processors (docs/results/simulator.md), a vCPU had 0.93 of one and the sender 0.74.
const vcpuWeight = 1.25

// shares returns the speed of the guest, and how long a parcel takes where it would take so long
// alone. Vcpus, sender and receiver share the processors: whoever needs less than its part has what
// it needs, and the others have the rest. All vCPUs are taken to be busy. The receiver needs a
// processor only as fast as the sender sends.
func (c Costs) shares(
	vcpus int, alone time.Duration, p parcel,
) (guest float64, takes time.Duration) {
	if c.Processors == 0 || alone <= 0 || p.send <= 0 {
		return 1, alone
	}
	all, v := float64(c.Processors)-othersTake, float64(vcpus)
	busy, receives := p.send.Seconds()/alone.Seconds(), p.receive.Seconds()/alone.Seconds()
	if v+busy+receives <= all {
		return 1, alone
	}
	both := 1 + receives/busy // how much more both ends need than the sender does
	part := all / (v*vcpuWeight + both)
	if part*vcpuWeight > 1 { // a vCPU has all that it can use
		part = (all - v) / both
	}
	guest, takes = part*vcpuWeight, time.Duration(float64(alone)*busy/part)
	if part >= busy {
		guest, takes = (all-busy-receives)/v, alone // there is a vCPU, or they would not contend
	}
	return max(min(guest, 1), leastSpeed), takes
}

// Limit is what limits a simulated move.
type Limit string

// The limits.
const (
	LimitLink       Limit = "link"
	LimitProcessors Limit = "processors"
)

// full is a full frame of pages with that content.
func (l *link) full(is content) load {
	f := load{}
	f.add(l.frame/memory.PageSize, is, l)
	return f
}

// slowest is what a page takes in a full frame, where that is most: as it is, or packed if that is
// ordered. What auto packs takes less than it does as it is.
func (l *link) slowest(contents []content) time.Duration {
	most := time.Duration(0)
	for _, is := range contents {
		f := l.full(is)
		for _, p := range []parcel{l.raw(f), l.encode(f)} {
			_, takes := l.costs.shares(l.vcpus, l.alone(p), p)
			most = max(most, takes/time.Duration(f.content))
		}
	}
	return most
}

// LimitedBy says what takes longer for all that the trace writes: the link, or the processors that
// look at its pages and pack them.
func (s Setting) LimitedBy(t *Trace) Limit {
	l := newLink(s, t)
	l.plain = 0
	written := make([]int, len(t.contents)) // pages, by content
	for n, i := range t.intervals {
		written[i.content] += t.pages(n)
	}
	var processors, link float64
	for n, is := range t.contents {
		p := l.encode(l.full(is))
		_, takes := s.Costs.shares(l.vcpus, p.send, p)
		processors += float64(written[n]) * takes.Seconds()
		link += float64(written[n]) * p.bytes / l.bytesPerS
	}
	if processors > link {
		return LimitProcessors
	}
	return LimitLink
}

// contends tells whether the guest, or pages, would wait for a processor all the time with this
// setting. Frames that need no link for a moment do not count: those of zero pages, in round 1, and
// those that a bucket of saved tokens has room for.
func (s Setting) contends(t *Trace) bool {
	l := newLink(s, t)
	for _, plain := range []time.Duration{0, l.plain} { // with compression, and before it begins
		l.plain = plain
		for _, is := range t.contents {
			p := l.encode(l.full(is))
			alone := l.alone(p)
			if guest, takes := s.Costs.shares(l.vcpus, alone, p); guest < 1 || takes > alone {
				return true
			}
		}
	}
	return false
}
