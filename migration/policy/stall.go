package policy

import (
	"math"
	"slices"
	"time"
)

func init() {
	register(Spec{
		Name: "stall",
		Help: "as downtime, and at a local minimum of what is left once it shrinks no more, as " +
			"KubeVirt 1.9's stall detector does",
		Params: []Param{
			{
				Name: "limit", Default: DefaultLimit.String(),
				Help: "what the rest must fit before a stall (--downtime-limit)",
			},
			{Name: "window", Default: "40s", Help: "what has not shrunk for so long is stalled"},
			{Name: "margin", Default: "4", Help: "percent by which it must shrink, or may exceed " +
				"the minimum"},
			{Name: "decay", Default: "50", Help: "percent of the window after which the minimum " +
				"is relaxed again"},
			{Name: "factor", Default: "150", Help: "at a minimum, percent of the limit that it " +
				"is still content with; above, it gives up"},
		},
		Traits: Traits{Protect: ProtectPage},
		New: func(a *Args) Policy {
			return stall{
				limit: a.Duration("limit"), window: a.Duration("window"),
				margin: float64(a.Int("margin")) / 100, decay: float64(a.Int("decay")) / 100,
				factor: float64(a.Int("factor")) / 100,
			}.rule()
		},
	})
}

// stall is the stall detector of KubeVirt 1.9 (VEP 248, in kubevirt/kubevirt the file
// pkg/virt-launcher/virtwrap/stall-detector.go, with the defaults of its options). A migration is
// stalled once no round of the last window has left clearly less than the best one before the
// window. From then on it stops at a local minimum: where little more is left than after the best
// round so far. If none comes within a window, the minimum is relaxed to the best since the stall,
// and each next time after a shorter wait.
//
// It deviates as follows. A stall is seen in the rounds before the present one, so a round later,
// because a policy must not say no to fewer pages where it says yes to more. Time is that of
// rounds; waits in between do not count. The downtime to expect comes from the engine's measured
// bandwidth, instead of an average of its own. KubeVirt aborts at a minimum that would take more
// than factor times the limit, or stops there with allowWorkloadDisruption: this one gives up
// there, and has given up from then on. There is no post-copy here, which is KubeVirt's other way
// out, and no completion timeout.
type stall struct {
	limit, window         time.Duration
	margin, decay, factor float64
}

// left is what a round left behind.
type left struct {
	at    float64 // ms of rounds
	pages int
}

func (s stall) rule() StopRule {
	usual := downtime(s.limit, 0)
	return func(now time.Duration, e Event) Action {
		if a := usual(now, e); a.Verb == Switchover {
			return a
		}
		gaveUp := false
		best, stalled := s.follow(e, func(at left, best int) {
			gaveUp = gaveUp || s.near(at.pages, best) && !s.cheap(e, at.pages)
		})
		switch missing := e.Missing(); {
		case gaveUp:
			return giveUpStalled
		case !stalled || !s.near(missing, best):
			return Action{}
		case !s.cheap(e, missing):
			return giveUpStalled
		default:
			return content("%d dirty pages are a local minimum of a stalled migration", missing)
		}
	}
}

var giveUpStalled = gaveUp("a local minimum of a stalled migration, above the downtime limit")

// near tells whether a number of pages is a local minimum.
func (s stall) near(pages, best int) bool { return float64(pages) <= float64(best)*(1+s.margin) }

// cheap tells whether the downtime for a number of pages is tolerable. While no bandwidth is known,
// none is.
func (s stall) cheap(e Event, pages int) bool {
	e.Remaining, e.Queued = pages, 0
	d, known := e.Downtime()
	tolerable := time.Duration(min(float64(s.limit)*s.factor, math.MaxInt64/2))
	return known && d <= e.forPages(tolerable)
}

// follow goes through the rounds of a migration. It returns the number of pages that is a local
// minimum for the present one, if the migration was stalled before it. It tells of every earlier
// round that was over after the stall.
func (s stall) follow(e Event, tell func(at left, best int)) (best int, stalled bool) {
	past, present := history(e)
	var detector plateau
	var relaxed relaxation
	for _, r := range past {
		if stalled {
			relaxed.add(r, s.decay)
			tell(r, relaxed.best)
			continue
		}
		if detector.add(r, s.window, s.margin) {
			stalled = true
			relaxed = newRelaxation(r, detector.best(), s.window)
		}
	}
	if stalled {
		relaxed.add(present, s.decay)
	}
	return relaxed.best, stalled
}

// history returns what each round left, the present state last.
func history(e Event) (past []left, present left) {
	at := 0.0
	for i, r := range e.Rounds {
		at += r.MS
		if i+1 < len(e.Rounds) {
			past = append(past, left{at, int(e.Rounds[i+1].DirtyPages)})
		}
	}
	return past, left{at, e.Missing()}
}

// plateau finds out that rounds leave no less any more.
type plateau struct {
	recent []left // of the window, each with fewer pages than the one before
	before int    // the fewest pages before the window, 0: there is none yet
}

// add tells whether a round shows a plateau.
func (p *plateau) add(r left, window time.Duration, margin float64) bool {
	aged := slices.IndexFunc(p.recent, func(l left) bool {
		return r.at-l.at < window.Seconds()*1000
	})
	if aged < 0 {
		aged = len(p.recent)
	}
	for _, l := range p.recent[:aged] {
		if p.before == 0 || l.pages < p.before {
			p.before = l.pages
		}
	}
	p.recent = p.recent[aged:]
	if n := len(p.recent); (p.before == 0 || r.pages <= p.before) &&
		(n == 0 || r.pages < p.recent[n-1].pages) {
		p.recent = append(p.recent, r)
	}
	return p.before > 0 && float64(r.pages) >= math.Floor(float64(p.before)*(1-margin))
}

// best is the fewest pages that a round has left.
func (p *plateau) best() int {
	best := p.before
	for _, l := range p.recent {
		best = min(best, l.pages)
	}
	return best
}

// relaxation is what counts as a local minimum after a stall.
type relaxation struct {
	best     int
	since    []int   // pages left by rounds since, those apart that best was relaxed to
	deadline float64 // in ms: best is relaxed then
	patience float64
}

func newRelaxation(r left, best int, window time.Duration) relaxation {
	patience := window.Seconds() * 1000
	return relaxation{best: best, deadline: r.at + patience, patience: patience}
}

func (x *relaxation) add(r left, decay float64) {
	i, _ := slices.BinarySearch(x.since, r.pages)
	x.since = slices.Insert(x.since, i, r.pages)
	if r.at < x.deadline {
		return
	}
	x.best, x.since = x.since[0], x.since[1:]
	x.patience *= decay
	x.deadline = r.at + x.patience
}
