package policy

import (
	"fmt"
	"time"
)

func init() {
	register(Spec{
		Name: "cycle",
		Help: "watches the dirty rate, begins at a calm predicted by its FFT, as ALMA does, and " +
			"ends as downtime",
		Params: []Param{
			{
				Name: "limit", Default: DefaultLimit.String(),
				Help: "what the rest must fit (--downtime-limit)",
			},
			{Name: "max-rounds", Default: "0", Help: "give up after so many rounds, 0: never"},
			{Name: "samples", Default: "128", Help: "look at so many samples of the dirty rate, " +
				"a power of two from 8 to 4096"},
			{Name: "interval", Default: "100ms", Help: "time between two samples, from 5ms"},
		},
		Traits: Traits{Protect: ProtectPage, Polish: true},
		New: func(a *Args) Policy {
			c := &cycle{
				rule:  downtime(a.Duration("limit"), a.Int("max-rounds")),
				count: a.Int("samples"), interval: a.Duration("interval"),
			}
			if c.count < 8 || c.count > 4096 || c.count&(c.count-1) != 0 {
				a.fail("samples", "want a power of two from 8 to 4096")
			}
			if c.interval < minSample || c.interval > time.Hour {
				a.fail("interval", fmt.Sprintf("want a duration from %v to 1h", minSample))
			}
			return c
		},
	})
}

// cycle begins the migration at a predicted calm, as ALMA does (Baruchi, Midorikawa, Sato and
// Netto, "Exploiting Workload Cycles for Orchestration of Virtual Machine Live Migrations in
// Clouds", arXiv 1607.07846). It samples the dirty rate, finds the guest's cycle by a Fourier
// transform, and postpones round 1 to the beginning of the next calm. If there is no cycle, it
// begins at once. After that, it is the policy downtime.
//
// It deviates as follows. ALMA characterises CPU, memory and network over minutes to hours with a
// trained classifier, before a migration is asked for; here the dirty rate is all there is, from
// the time of the order on, and a moment is calm if the mean of the same moments of earlier cycles
// is below the mean of all. ALMA takes the strongest frequency; the period that it stands for is
// only as fine as the samples' window is long, so here the neighbouring periods are tried as well,
// and the one at which the rate resembles itself most is taken. ALMA leaves the end of pre-copy to
// Xen. Neither looks at how long a round takes: where RAM takes longer to send than the calm lasts,
// a start in calm gains little.
type cycle struct {
	rule     StopRule
	count    int
	interval time.Duration

	rates []float64     // sampled
	first time.Duration // the time of the first one
	begin time.Duration // the predicted calm, once the samples are complete
}

// Step implements Policy.
func (c *cycle) Step(now time.Duration, e Event) Action {
	switch e.Kind {
	case KindStart:
		return Action{Verb: Wait, Until: now + c.interval}
	case KindSample:
		return c.sample(now, e.DirtyPerS)
	}
	return c.rule.Step(now, e)
}

func (c *cycle) sample(now time.Duration, rate float64) Action {
	if len(c.rates) == 0 {
		c.first = now
	}
	if len(c.rates) < c.count {
		if c.rates = append(c.rates, rate); len(c.rates) < c.count {
			// Samples that came late must not shift those that follow.
			next := c.first + time.Duration(len(c.rates))*c.interval
			return Action{Verb: Wait, Until: next}
		}
		c.begin = now + time.Duration(nextCalm(c.rates))*c.interval
	}
	if now >= c.begin {
		return Action{}
	}
	return Action{Verb: Wait, Until: c.begin, Reason: "for a calm that its cycle predicts"}
}

// nextCalm returns in how many samples from the last one a calm begins, 0 if it is calm now or
// there is no cycle.
func nextCalm(rates []float64) int {
	period := periodOf(rates)
	if period == 0 {
		return 0
	}
	mean := meanOf(rates)
	for ahead := range period {
		// A calm that has lasted for a while will be over soon. So what counts is its beginning,
		// or its first quarter.
		if lasted, length := calmAt(rates, period, ahead, mean); lasted >= 0 && 4*lasted <= length {
			return ahead
		}
	}
	return 0
}

// calmAt says for how long the calm has lasted that is predicted for so many samples after the last
// one, and how long it is. Lasted is negative if there is none.
func calmAt(rates []float64, period, ahead int, mean float64) (lasted, length int) {
	calm := func(offset int) bool {
		return predicted(rates, period, ahead+offset) < mean
	}
	if !calm(0) {
		return -1, 0
	}
	for lasted < period && calm(-lasted-1) {
		lasted++
	}
	length = lasted + 1
	for length < period && calm(length-lasted) {
		length++
	}
	return lasted, length
}

// predicted is the rate so many samples after the last one: the mean of those that are whole
// periods before. A negative number stands for earlier samples.
func predicted(rates []float64, period, ahead int) float64 {
	var same []float64
	phase := ((len(rates)-1+ahead)%period + period) % period
	for i := phase; i < len(rates); i += period {
		same = append(same, rates[i])
	}
	return meanOf(same)
}

func meanOf(values []float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}
