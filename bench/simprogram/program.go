// Package simprogram starts the programs that lead simulated moves.
package simprogram

import (
	"cmp"
	"errors"
	"log/slog"
	"time"

	"taskguide/bench/sim"
	"taskguide/migration/policy"
	"taskguide/migration/program"
)

// thinking is how long a program may think about an answer, by the clock on the wall. It has all
// the virtual time there is, but a program that hangs must not hang the simulation.
const thinking = time.Minute

// leader is a program that leads simulated moves.
type leader struct {
	*program.Program
	order sim.Order
	rate  int64
}

// Start has the programs among the entrants started for each of their moves.
func Start(all []sim.Entrant, s sim.Setting) []sim.Entrant {
	all = append([]sim.Entrant(nil), all...)
	for i := range all {
		o := all[i].Order
		if path := o.Policy.Program(); path != "" {
			all[i].Lead = func() (sim.Leader, error) {
				p, err := program.Launch(path, slog.New(slog.DiscardHandler), func(error) {})
				if err != nil {
					return nil, err
				}
				return leader{p, o, s.BitsPerSecond}, nil
			}
		}
	}
	return all
}

// Ask implements [sim.Leader].
func (l leader) Ask(now time.Duration, e policy.Event) (*policy.Action, error) {
	m := program.Asking(now, e)
	if e.Kind == policy.KindStart {
		m.Opening = l.opening(e)
	}
	a, err := l.Program.Ask(m, thinking)
	if err == nil && a == nil {
		err = errors.New("no answer for " + thinking.String())
	}
	return a, err
}

// opening is what a program learns at the start. The engine tells the same.
func (l leader) opening(e policy.Event) *program.Opening {
	guidance := l.order.Guidance
	if guidance != policy.GuidanceOff && e.Tasks == 0 {
		guidance = policy.GuidanceNone
	}
	return &program.Opening{
		Tasks: e.Tasks, Guidance: guidance,
		DowntimeLimitMS: ms(cmp.Or(l.order.Limit, policy.DefaultLimit)),
		MaxDeferMS:      ms(l.order.MaxDefer), PolicyLimitMS: ms(sim.ProgramLimit),
		BitsPerSecond: l.rate,
	}
}

// Tell implements [sim.Leader].
func (l leader) Tell(now time.Duration, e policy.Event) {
	l.Program.Tell(program.Telling(now, e))
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
