package sim

import (
	"time"

	"taskguide/migration/policy"
)

// Terms are an order in a form that can be kept and compared. What has no effect is empty.
type Terms struct {
	Policy   string          `json:"policy"` // with the parameters that it was given
	Limit    string          `json:"limit,omitempty"`
	Guidance policy.Guidance `json:"guidance"`

	// These matter to guided moves alone.
	AtExit    bool             `json:"at_exit,omitempty"`
	Gate      Quorum           `json:"gate,omitempty"`
	MaxDefer  time.Duration    `json:"max_defer_ns,omitempty"`
	OnTimeout policy.OnTimeout `json:"on_timeout,omitempty"`
}

// Terms are the order's.
func (o Order) Terms() Terms {
	t := Terms{
		Policy: o.Policy.String(), Limit: o.Policy.Value("limit", o.values()), Guidance: o.Guidance,
	}
	if o.Guidance != policy.GuidanceOff {
		t.AtExit, t.Gate, t.MaxDefer, t.OnTimeout = o.AtExit, o.Gate, o.MaxDefer, o.OnTimeout
	}
	return t
}
