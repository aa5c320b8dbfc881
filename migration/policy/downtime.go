package policy

import "time"

// DefaultLimit is how long the rest may take to send unless somebody says otherwise.
const DefaultLimit = 300 * time.Millisecond

func init() {
	register(Spec{
		Name: "downtime",
		Help: "what is still dirty fits the downtime limit at the measured bandwidth",
		Params: []Param{
			{
				Name: "limit", Default: DefaultLimit.String(),
				Help: "what the rest must fit (--downtime-limit)",
			},
			{Name: "max-rounds", Default: "0", Help: "give up after so many rounds, 0: never"},
		},
		Traits: Traits{Protect: ProtectPage, Polish: true},
		New: func(a *Args) Policy {
			return downtime(a.Duration("limit"), a.Int("max-rounds"))
		},
	})
}

// downtime is content once the remaining pages fit what the limit leaves to them, at the measured
// bandwidth.
func downtime(limit time.Duration, maxRounds int) StopRule {
	return func(_ time.Duration, e Event) Action {
		expected, known := e.Downtime()
		switch {
		case e.Missing() == 0:
			return content("no dirty page left")
		case known && expected <= e.forPages(limit):
			return content("%d dirty pages fit the downtime limit of %v", e.Remaining, limit)
		case maxRounds > 0 && e.Completed >= maxRounds:
			return gaveUp("%d rounds", maxRounds)
		}
		return Action{}
	}
}
