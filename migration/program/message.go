package program

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"

	"taskguide/migration/policy"
)

// Message is an event as a program gets it. Facts that do not belong to an event are left out.
// Times are milliseconds since the migration began, and sizes are pages of 4096 bytes.
type Message struct {
	Event policy.Kind `json:"event"`
	// Question numbers the messages that want an answer, from 1.
	Question int     `json:"question,omitempty"`
	NowMS    float64 `json:"now_ms"`
	// Missed counts messages that were dropped because the program did not read them.
	Missed int `json:"missed,omitempty"`

	Gate  policy.Gate  `json:"gate,omitempty"`
	Phase policy.Phase `json:"phase,omitempty"`

	*State                 // at a question
	*Opening               // at a start
	*policy.Round          // at a round
	DirtyPerS     *float64 `json:"dirty_pages_per_s,omitempty"` // at a sample and a round
	Idle          bool     `json:"idle,omitempty"`              // the round had nothing to send
}

// State is the migration's present state.
type State struct {
	RAM       int     `json:"ram_pages"`
	Remaining int     `json:"remaining_pages"`
	Queued    int64   `json:"queued_bytes"` // sent and not arrived, before the remaining pages
	Sent      int64   `json:"pages_sent_so_far"`
	Completed int     `json:"completed_rounds"`
	Content   float64 `json:"content_bytes_per_s"` // of the page stream
	Wire      float64 `json:"wire_bytes_per_s"`    // of the link
	// DowntimeMS is what the remaining pages would take, if a bandwidth is known. FixedMS is the
	// estimate of what a switchover takes besides.
	DowntimeMS *float64 `json:"expected_downtime_ms,omitempty"`
	FixedMS    float64  `json:"fixed_downtime_ms"`
}

// Opening is what a program learns at the start besides the migration's state.
type Opening struct {
	Tasks           int             `json:"tasks"` // registered for guidance
	Guidance        policy.Guidance `json:"guidance"`
	DowntimeLimitMS float64         `json:"downtime_limit_ms"`
	MaxDeferMS      float64         `json:"max_defer_ms"`
	PolicyLimitMS   float64         `json:"policy_limit_ms"` // after that, it is asked no more
	BitsPerSecond   int64           `json:"bandwidth_bits_per_s"`
}

// Telling returns an event that only tells something.
func Telling(now time.Duration, e policy.Event) Message {
	return Message{Event: e.Kind, NowMS: ms(now), Gate: e.Gate, Phase: e.Phase}
}

// Asking returns an event that wants an answer. It copies what the event only borrows.
func Asking(now time.Duration, e policy.Event) Message {
	m := Telling(now, e)
	m.Idle = e.Idle
	m.State = &State{
		RAM: e.RAM, Remaining: e.Remaining, Queued: e.Queued, Sent: e.Sent,
		Completed: e.Completed, Content: e.BytesPerS, Wire: e.WirePerS, FixedMS: ms(e.Fixed),
	}
	if d, known := e.Downtime(); known {
		expected := ms(d)
		m.DowntimeMS = &expected
	}
	switch e.Kind {
	case policy.KindSample:
		m.DirtyPerS = &e.DirtyPerS
	case policy.KindRound:
		r := policy.Round{
			N: e.Completed, Phase: e.Phase, DirtyPages: int64(e.Dirty),
			GateOpen: e.Gate == policy.GateOpen,
		}
		if n := len(e.Rounds); n > 0 && !e.Idle {
			r = e.Rounds[n-1]
		}
		m.Round, m.Phase, m.DirtyPerS = &r, r.Phase, &r.DirtyPagesPerS
	}
	return m
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// encode returns the message as a line.
func (m Message) encode() ([]byte, error) {
	line, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode an event: %w", err)
	}
	return append(line, '\n'), nil
}

const (
	// maxLine is how long a program's answer may be, in bytes.
	maxLine = 4096
	// maxReason is how many letters of its reason count.
	maxReason = 200
	// maxUntil bounds the time to which it may wait, in ms: 100 days.
	maxUntil = 100 * 24 * 3600 * 1000
)

// answer is a line of a program.
type answer struct {
	Action  string   `json:"action"`
	Reason  string   `json:"reason"`
	GaveUp  bool     `json:"gave_up"`
	UntilMS *float64 `json:"until_ms"`
}

var verbs = map[string]policy.Verb{
	"continue": policy.Continue, "wait": policy.Wait, "suspend": policy.Suspend,
	"switchover": policy.Switchover, "abort": policy.Abort,
}

// parse reads an answer. What it does not know in the object is ignored.
func parse(line []byte) (policy.Action, error) {
	var a answer
	if err := json.Unmarshal(line, &a); err != nil {
		return policy.Action{}, fmt.Errorf("%s is no answer: %w", shown(line), err)
	}
	verb, known := verbs[a.Action]
	switch {
	case a.Action == "postcopy", a.Action == "throttle":
		return policy.Action{}, fmt.Errorf("action %q does not exist yet", a.Action)
	case a.Action == "":
		return policy.Action{}, fmt.Errorf("%s has no \"action\"", shown(line))
	case !known:
		return policy.Action{}, fmt.Errorf("action %s is unknown", shown([]byte(a.Action)))
	}
	did := policy.Action{Verb: verb, Reason: clean(a.Reason)}
	did.GaveUp = a.GaveUp && verb == policy.Switchover
	if did.Reason == "" && (verb == policy.Switchover || verb == policy.Abort) {
		did.Reason = "its program says so"
	}
	if a.UntilMS != nil && (verb == policy.Wait || verb == policy.Suspend) {
		if *a.UntilMS < 0 {
			return policy.Action{}, errors.New("until_ms is negative")
		}
		did.Until = time.Duration(min(*a.UntilMS, maxUntil) * float64(time.Millisecond))
	}
	return did, nil
}

// clean makes a reason fit one line of a report.
func clean(s string) string {
	letters := []rune(strings.ToValidUTF8(s, "?"))
	if len(letters) > maxReason {
		letters = append(letters[:maxReason], '…')
	}
	for i, r := range letters {
		if !unicode.IsPrint(r) {
			letters[i] = ' '
		}
	}
	return strings.TrimSpace(string(letters))
}

// shown is the beginning of a line, for an error.
func shown(line []byte) string {
	const most = 60
	if len(line) > most {
		return fmt.Sprintf("%q…", line[:most])
	}
	return fmt.Sprintf("%q", line)
}
