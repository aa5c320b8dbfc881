package policy

import (
	"math"
	"time"
)

func init() {
	register(Spec{
		Name: "ramp",
		Help: "as downtime, with a limit that grows in steps, as OpenStack Nova's does",
		Params: []Param{
			{
				Name: "limit", Default: "500ms",
				Help: "the limit after the last step (--downtime-limit)",
			},
			{Name: "steps", Default: "10", Help: "in so many steps, from 1/steps of the limit"},
			{Name: "delay", Default: "75s", Help: "time between two steps, for each GiB of RAM"},
			{Name: "max-rounds", Default: "0", Help: "give up after so many rounds, 0: never"},
		},
		Traits: Traits{Protect: ProtectPage},
		New: func(a *Args) Policy {
			steps := a.Int("steps")
			if steps == 0 {
				a.fail("steps", "want a whole number from 1")
			}
			return ramp(a.Duration("limit"), steps, a.Duration("delay"), a.Int("max-rounds"))
		},
	})
}

// ramp is the algorithm by which OpenStack Nova sets QEMU's downtime limit while a guest migrates:
// downtime_steps in nova/virt/libvirt/migration.py, with the defaults of its options
// live_migration_downtime, _steps and _delay. The limit begins at 1/steps of the whole, and grows
// by equal steps. The more there is to send, the later each step comes.
//
// It deviates in three ways. Nova counts at least 2 GB, and disks that it copies; here RAM counts,
// as it is. Nova rounds to milliseconds and whole seconds. And Nova cancels or forces a migration
// after live_migration_completion_timeout, which is left to max-rounds here.
func ramp(limit time.Duration, steps int, delay time.Duration, maxRounds int) StopRule {
	return func(now time.Duration, e Event) Action {
		return downtime(rampLimit(now, e.RAM, limit, steps, delay), maxRounds)(now, e)
	}
}

// rampLimit is the limit at a time since the migration began.
func rampLimit(now time.Duration, pages int, limit time.Duration, steps int,
	delay time.Duration) time.Duration {
	const gib = 1 << 30
	each := float64(delay) * float64(pages) * pageSize / gib
	step := float64(steps)
	if each > 0 {
		step = min(step, math.Floor(float64(now)/each))
	}
	base := float64(limit) / float64(steps)
	at := base + step*(float64(limit)-base)/float64(steps)
	if at >= float64(limit) {
		return limit // the longest limits are beyond a Duration once they are rounded
	}
	return time.Duration(at)
}
