package trial

import (
	"cmp"
	"context"
	"errors"
	"time"

	"taskguide/bench/sim"
	"taskguide/bench/simprogram"
	"taskguide/migration"
)

// Contest is simulated moves of a recorded guest: every cell is moved from the same moments.
type Contest struct {
	Cells []Cell `json:"cells"`
	// Moments is how many there are, one at random in each equal part of the recording, by the
	// guest's seed.
	Moments int `json:"moments"`
}

// Cell is a configuration of a contest.
type Cell struct {
	Factors map[string]string `json:"factors"`
	Params  migration.Params  `json:"params"`
	RTT     time.Duration     `json:"rtt_ns,omitempty"` // of the relay
}

// Standing is what the simulator says of a cell.
type Standing struct {
	Factors map[string]string `json:"factors"`
	Moves   []Simulation      `json:"moves"`
	// Extrapolated says why no comparison with real moves covers them; empty if one does.
	Extrapolated string `json:"extrapolated,omitempty"`
}

// Simulation is a simulated move, and the oracle's from the same moment, with the same traits.
type Simulation struct {
	DowntimeMS float64 `json:"downtime_ms"`
	TotalMS    float64 `json:"total_ms"`

	// OracleDowntimeMS is 0 if the oracle has no move.
	OracleDowntimeMS float64 `json:"oracle_downtime_ms"`
	OracleTotalMS    float64 `json:"oracle_total_ms"`
	// Error says why there is no move, or none that the policy led to its end.
	Error string `json:"error,omitempty"`
}

// Judged tells whether the oracle moved the guest, too, so that there is something to compare with.
// It needs no field of its own, so results of older versions are judged alike.
func (s Simulation) Judged() bool { return s.Error == "" && s.OracleDowntimeMS > 0 }

// contest records a guest that nobody moves, and simulates.
func (s *stage) contest(ctx context.Context, dir string) error {
	if s.spec.Record == nil {
		return errors.New("a contest takes a recording")
	}
	if err := s.board(dir); err != nil {
		return err
	}
	alive, cancel := s.source.whileAlive(ctx)
	defer cancel()
	if err := awaitBeats(alive, &s.guest, s.spec); err != nil {
		return s.source.explain(err)
	}
	file, _, err := s.record(alive, s.spec.Record)
	if err != nil {
		return s.source.explain(err)
	}
	t, err := wholeCycles(file)
	if err != nil {
		return err
	}
	return s.compete(ctx, t)
}

// compete simulates what the trial asks for, as if it were at its site.
func (s *stage) compete(ctx context.Context, t *sim.Trace) (err error) {
	s.result.Contest, err = s.spec.Contest.hold(ctx, t, uint64(s.spec.Guest.Seed), s.processors(),
		s.site.unlike())
	return err
}

// unlike says why no real move of a comparison stands for one of this site, or nothing if one may.
// A contest is simulated over the round trip of a loopback, wherever real moves go.
func (site *Site) unlike() string {
	switch {
	case site.Hosts != nil:
		return "no real move between two hosts was compared, and none over their round trip"
	case site.Link != nil:
		return "no real move over a shaped link was compared"
	}
	return ""
}

// board starts a guest that stays where it is.
func (s *stage) board(dir string) (err error) {
	at := Side{}
	if s.site.Hosts != nil {
		at = s.site.source()
	}
	args, err := s.spec.Guest.boot(at.host)
	if err != nil {
		return err
	}
	started := make(chan struct{})
	close(started)
	s.source, err = startVMM(s.site.Binary, dir, "recorded", at, &s.guest, started,
		args...)
	return err
}

// hold simulates all cells. Cells with the same setting share the oracle's moves. unlike says why
// no comparison covers any of them, if there is a reason.
func (c Contest) hold(
	ctx context.Context, t *sim.Trace, seed uint64, processors int, unlike string,
) ([]Standing, error) {
	all := make([]Standing, len(c.Cells))
	bySetting := map[sim.Setting][]int{}
	entrants := make([]sim.Entrant, len(c.Cells))
	for i, cell := range c.Cells {
		order, setting, err := simulation(t, cell.Params, cell.RTT, processors)
		if err != nil {
			return nil, err
		}
		entrants[i] = sim.Entrant{Order: order}
		all[i].Factors = cell.Factors
		all[i].Extrapolated = cmp.Or(unlike,
			sim.Extrapolated(sim.Validations, setting, t, entrants[i]))
		bySetting[setting] = append(bySetting[setting], i)
	}
	moments := sim.Moments(t, c.Moments, seed)
	for setting, cells := range bySetting {
		var own []sim.Entrant
		for _, i := range cells {
			own = append(own, entrants[i])
		}
		own = simprogram.Start(own, setting)
		for _, at := range moments {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			pairs, err := setting.Compare(ctx.Err, t, own, at)
			if err != nil {
				return nil, err
			}
			for k, p := range pairs {
				s := &all[cells[k]]
				s.Moves = append(s.Moves, simulationOf(p))
			}
		}
	}
	return all, nil
}

// simulationOf is a pair as results have it. A move whose policy's program was given up does not
// count, as a real one does not, because another policy decided.
func simulationOf(p sim.Paired) Simulation {
	return Simulation{
		DowntimeMS: p.Move.DowntimeMS, TotalMS: p.Move.TotalMS,
		OracleDowntimeMS: p.Oracle.DowntimeMS, OracleTotalMS: p.Oracle.TotalMS,
		Error: cmp.Or(p.Move.Error, p.Move.PolicyError),
	}
}
