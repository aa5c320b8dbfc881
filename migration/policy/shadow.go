package policy

import "time"

// maxDecisions is how many decisions a Shadow keeps.
const maxDecisions = 100

// Shadow is a policy that is asked what it would do, without its being done. It keeps every change
// of its mind. The migration goes on under another policy, so after a first Switchover its answers
// are about a migration that it would have ended.
type Shadow struct {
	policy Policy // nil for a program, which the engine asks
	last   Action
	record Record
}

// Record is what a shadow would have done.
type Record struct {
	Policy string `json:"policy"` // its name and the parameters that were given
	// Error is why its program has ended, empty if it has not.
	Error string `json:"error"`
	// Asked counts its answers. A program that is busy is not asked, and one that is late has none.
	Asked int `json:"asked"`
	// Decisions are its changes of mind; before the first, it would have gone on. The first 100 are
	// kept, and DecisionsOmitted counts the others.
	Decisions        []Decision `json:"decisions"`
	DecisionsOmitted int        `json:"decisions_omitted"`
}

// Decision is what a shadow would have done from some moment on.
type Decision struct {
	AtMS      float64 `json:"at_ms"` // since the migration began
	Event     Kind    `json:"event"`
	Round     int     `json:"round"` // complete rounds by then
	Remaining int     `json:"remaining_pages"`
	Action    string  `json:"action"`
	Reason    string  `json:"reason"`
	GaveUp    bool    `json:"gave_up"`
}

// NewShadow returns a shadow that asks the policy. A nil policy stands for a program, whose answers
// come by Note.
func NewShadow(name string, p Policy) *Shadow {
	return &Shadow{policy: p, record: Record{Policy: name, Decisions: []Decision{}}}
}

// Step asks the policy.
func (s *Shadow) Step(now time.Duration, e Event) {
	if s.policy != nil {
		s.Note(now, e, s.policy.Step(now, e))
	}
}

// Tell tells the policy of an event to which there is no answer.
func (s *Shadow) Tell(now time.Duration, e Event) {
	if s.policy != nil {
		s.policy.Step(now, e)
	}
}

// Note notes an answer to an event.
func (s *Shadow) Note(now time.Duration, e Event, a Action) {
	s.record.Asked++
	same := a.Verb == s.last.Verb && a.GaveUp == s.last.GaveUp
	s.last = a
	switch {
	case same:
	case len(s.record.Decisions) == maxDecisions:
		s.record.DecisionsOmitted++
	default:
		s.record.Decisions = append(s.record.Decisions, Decision{
			AtMS: now.Seconds() * 1000, Event: e.Kind, Round: e.Completed,
			Remaining: e.Missing(), Action: a.Verb.String(), Reason: a.Reason, GaveUp: a.GaveUp,
		})
	}
}

// Fail notes that the program has ended.
func (s *Shadow) Fail(why string) { s.record.Error = why }

// Record returns what was noted so far.
func (s *Shadow) Record() Record {
	r := s.record
	r.Decisions = append([]Decision{}, r.Decisions...)
	return r
}
