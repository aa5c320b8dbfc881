package policy

import "time"

// The limits of Xen's old toolstack (xc_domain_save, "iterative precopy"). The rule since Xen 4.6
// (simple_precopy_policy of libxenguest) has the same 50 pages, gives up after 5 rounds, and does
// not count what was sent: max-rounds=5 comes close to it.
const (
	xenDirtyPages = 50
	xenMaxFactor  = 3
)

func init() {
	register(Spec{
		Name: "xen",
		Help: "Xen's classic rules: fewer than 50 dirty pages, or 29 rounds, or 3x RAM sent",
		Params: []Param{
			{Name: "max-rounds", Default: "29", Help: "give up after so many rounds"},
		},
		Traits: Traits{Skip: true, Protect: ProtectRound},
		New:    func(a *Args) Policy { return xen(a.Int("max-rounds")) },
	})
}

// xen is content with few dirty pages, and gives up after many rounds or many pages sent.
func xen(maxRounds int) StopRule {
	return func(_ time.Duration, e Event) Action {
		switch {
		case e.Missing() < xenDirtyPages:
			return content("fewer than %d dirty pages", xenDirtyPages)
		case e.Completed >= maxRounds:
			return gaveUp("%d rounds", maxRounds)
		case e.Sent > xenMaxFactor*int64(e.RAM):
			return gaveUp("%dx RAM sent", xenMaxFactor)
		}
		return Action{}
	}
}
