package sim

import (
	"time"

	"taskguide/memory"
)

// packToUnpack is how much longer compressing a page takes than decompressing it. BenchmarkApply
// of package transport has the other.
const packToUnpack = 5

// leastSpeed leaves the guest some speed, so that its time goes on.
const leastSpeed = 0.05

// shares returns the speed of the guest, and how long a parcel takes where it would take so long
// alone. Vcpus, sender and receiver share the processors as a fair scheduler lets them: whoever
// needs less than an equal part has what it needs, and the others have equal parts of the rest. All
// vCPUs are taken to be busy. The receiver needs a processor only as fast as the sender sends.
func (c Costs) shares(
	vcpus int, alone time.Duration, p parcel,
) (guest float64, takes time.Duration) {
	if c.Processors == 0 || alone <= 0 || p.send <= 0 {
		return 1, alone
	}
	all, v := float64(c.Processors), float64(vcpus)
	busy, receives := p.send.Seconds()/alone.Seconds(), p.receive.Seconds()/alone.Seconds()
	if v+busy+receives <= all {
		return 1, alone
	}
	if part := all / (v + 1 + receives/busy); part < busy {
		return max(min(part, 1), leastSpeed), time.Duration(float64(alone) * busy / part)
	}
	if vcpus == 0 {
		return 1, alone
	}
	return max(min((all-busy-receives)/v, 1), leastSpeed), alone
}

// contends tells whether the guest, or pages, would wait for a processor with this setting.
func (s Setting) contends(t *Trace) bool {
	l := newLink(s, t)
	n := l.frame / memory.PageSize
	frames := []load{{zero: 1}}
	for _, is := range t.contents {
		f := load{}
		f.add(n, is, l)
		frames = append(frames, f)
	}
	for _, plain := range []time.Duration{0, 1} { // with compression, and before it begins
		l.plain = plain
		for _, f := range frames {
			p := l.encode(f)
			alone := time.Duration(l.seconds(p) * float64(time.Second))
			if guest, takes := s.Costs.shares(l.vcpus, alone, p); guest < 1 || takes > alone {
				return true
			}
		}
	}
	return false
}
