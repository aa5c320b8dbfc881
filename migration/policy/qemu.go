package policy

import "time"

// qemuWindow is how long QEMU measures its bandwidth for (BUFFER_DELAY).
const qemuWindow = 100 * time.Millisecond

func init() {
	register(Spec{
		Name: "qemu",
		Help: "QEMU's rule: pending pages <= last bandwidth x limit",
		Params: []Param{
			{
				Name: "limit", Default: DefaultLimit.String(),
				Help: "QEMU's downtime-limit (--downtime-limit)",
			},
		},
		Traits: Traits{Protect: ProtectPage},
		New:    func(a *Args) Policy { return qemu(a.Duration("limit")) },
	})
}

// qemu is the rule of QEMU's migration thread (migration/migration.c, QEMU 10.1): bandwidth is what
// went over the wire in the last 100 ms or more (migration_update_counters), and pre-copy is over
// once pending_size <= bandwidth x downtime-limit (migration_iteration_run). As there, pages count
// with their full size, whatever they will compress to, and nothing ever gives up.
//
// It deviates in three ways. QEMU also judges in the middle of a pass over RAM, by an estimate, and
// then by a synced bitmap; here it is asked after rounds and at EXITs. QEMU counts the state of
// devices as pending, where devices announce it; here only pages are pending. And here the parts of
// a downtime that do not depend on the pages are subtracted from the limit.
func qemu(limit time.Duration) StopRule {
	return func(_ time.Duration, e Event) Action {
		threshold := lastBandwidth(e.Rounds, qemuWindow) * e.forPages(limit).Seconds()
		if float64(e.Missing())*pageSize <= threshold {
			return content("%d pages pending, within bandwidth x %v", e.Missing(), limit)
		}
		return Action{}
	}
}

// lastBandwidth returns how many bytes per second went over the wire in the last rounds that
// together took the given time.
func lastBandwidth(rounds []Round, atLeast time.Duration) float64 {
	var bytes, ms float64
	for i := len(rounds) - 1; i >= 0 && ms < atLeast.Seconds()*1000; i-- {
		bytes += float64(rounds[i].BytesWire)
		ms += rounds[i].MS
	}
	if ms <= 0 {
		return 0
	}
	return bytes / ms * 1000
}
