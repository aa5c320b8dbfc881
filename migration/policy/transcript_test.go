package policy

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "have testdata be what the head says now")

// TestTranscripts gives a head the events of testdata/*.txt, and compares its answers. A file is
// made of blocks: lines of comment, lines of what happens, a line "----", and the answers up to an
// empty line. Look at what -rewrite changes, and commit it only if it is meant.
func TestTranscripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			b, err := os.ReadFile(file)
			require.NoError(t, err)
			got := replay(t, string(b))
			if *rewrite {
				require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
				return
			}
			require.Equal(t, string(b), got)
		})
	}
}

// replay returns a transcript with the answers of now.
func replay(t *testing.T, transcript string) string {
	var out []string
	hands := &hands{t: t}
	for block := range strings.SplitSeq(strings.TrimRight(transcript, "\n"), "\n\n") {
		var answers []string
		for line := range strings.SplitSeq(block, "\n") {
			if line == "----" {
				break
			}
			out = append(out, line)
			if line != "" && !strings.HasPrefix(line, "#") {
				answers = append(answers, hands.tell(line))
			}
		}
		if answers != nil {
			out = append(out, "----")
			out = append(out, answers...)
		}
		out = append(out, "")
	}
	return strings.Join(out, "\n")
}

// hands are a stand-in for the engine: they keep what it keeps, and tell a head of events.
type hands struct {
	t     *testing.T
	head  *Head
	now   time.Duration
	phase Phase
	sent  int64
	n     int // rounds
	list  []Round
	says  Action // the policy of policy=script, to the event of this line
}

// words are the parts of a line: what happens, and its facts as k=v.
type words struct {
	t     *testing.T
	what  string
	facts map[string]string
}

func (h *hands) parse(line string) (w words, passed time.Duration) {
	fields := strings.Fields(line)
	if strings.HasPrefix(fields[0], "+") {
		d, err := time.ParseDuration(fields[0][1:])
		require.NoError(h.t, err, line)
		passed, fields = d, fields[1:]
	}
	w = words{h.t, fields[0], make(map[string]string)}
	for _, f := range fields[1:] {
		k, v, _ := strings.Cut(f, "=")
		w.facts[k] = v
	}
	return w, passed
}

// take returns a fact and removes it, so that facts that are never read can be found.
func (w words) take(k, otherwise string) string {
	v, there := w.facts[k]
	delete(w.facts, k)
	if !there {
		return otherwise
	}
	return v
}

func (w words) int(k string) int64 {
	n, err := strconv.ParseInt(w.take(k, "0"), 10, 64)
	require.NoError(w.t, err, "%s: %s", w.what, k)
	return n
}

func (w words) duration(k, otherwise string) time.Duration {
	d, err := time.ParseDuration(w.take(k, otherwise))
	require.NoError(w.t, err, "%s: %s", w.what, k)
	return d
}

func (w words) flag(k string) bool {
	_, there := w.facts[k]
	delete(w.facts, k)
	return there
}

// tell carries a line out and returns the answer.
func (h *hands) tell(line string) string {
	w, passed := h.parse(line)
	h.now += passed
	answer := ""
	switch w.what {
	case "head":
		h.order(w)
		answer = "ok"
	case "deferral":
		d := h.head.Deferral(h.now)
		answer = fmt.Sprintf("waited %v, suspended %v, deferred %v",
			d.Waited, d.Suspended, d.Deferred)
	case "state":
		answer = fmt.Sprintf("guidance %s, gate open %v, forced %v, any downtime %v",
			h.head.Guidance(), h.head.GateOpen(), h.head.Forced(), h.head.AnyDowntime())
	default:
		h.says = w.answer()
		answer = h.step(h.event(w))
	}
	require.Empty(h.t, w.facts, "%s: nobody reads these", line)
	return fmt.Sprintf("%v: %s", h.now, answer)
}

// order begins anew, with a head of its own.
func (h *hands) order(w words) {
	p, traits := h.policy(w.take("policy", Default), w.take("limit", "300ms"))
	guidance := Guidance(w.take("guidance", string(GuidanceSwitchover)))
	atExit := w.take("at-exit", "")
	*h = hands{t: h.t, phase: PhaseSetup, head: NewHead(Config{
		Policy:    p,
		Polish:    traits.Polish,
		Guidance:  guidance,
		AtExit:    atExit == "on" || atExit == "" && guidance == GuidanceSwitchover,
		Retries:   int(cmp.Or(w.int("retries"), 3)),
		MaxDefer:  w.duration("max-defer", "60s"),
		OnTimeout: OnTimeout(w.take("on-timeout", string(TimeoutForce))),
	})}
}

// policy returns one of the registry, or script, whose answers are in the line of each event.
func (h *hands) policy(name, limit string) (Policy, Traits) {
	if name == "script" {
		return script{h}, Traits{}
	}
	choice, err := Parse(name)
	require.NoError(h.t, err)
	p, err := choice.New(Values{"limit": limit})
	require.NoError(h.t, err)
	return p, choice.Traits()
}

type script struct{ h *hands }

func (s script) Step(time.Duration, Event) Action { return s.h.says }

// answer is what a line has a script say.
func (w words) answer() Action {
	says := strings.ReplaceAll(w.take("says", "continue"), "-", " ")
	i := slices.Index(verbs[:], says)
	require.GreaterOrEqual(w.t, i, 0, says)
	return Action{
		Verb: Verb(i), Until: w.duration("until", "0s"), Reason: w.take("reason", ""),
		GaveUp: w.flag("gave-up"),
	}
}

// event is the one that a line tells.
func (h *hands) event(w words) Event {
	kind := Kind(w.what)
	gate := Gate(w.take("gate", ""))
	if kind == "open" || kind == "closed" || kind == "closing" {
		kind, gate = KindGate, Gate(w.what)
	}
	e := Event{
		Kind: kind, Gate: gate, RAM: 4096,
		Remaining: int(w.int("left")), Queued: w.int("queued"), Tasks: int(w.int("tasks")),
		Dirty: int(w.int("dirty")), Idle: w.flag("idle"), Running: !w.flag("paused"),
		Looked: w.flag("looked"), Phase: cmp.Or(Phase(w.take("phase", "")), h.phase),
	}
	rate, err := strconv.ParseFloat(w.take("rate", "12.5e6"), 64) // bytes/s; 100 Mbit/s
	require.NoError(h.t, err)
	e.BytesPerS, e.WirePerS = rate, rate
	if kind == KindRound && !e.Idle {
		h.n++
		sent := cmp.Or(w.int("sent"), int64(e.Dirty))
		h.sent += sent
		h.list = append(h.list, Round{
			N: h.n, Phase: h.phase, DirtyPages: int64(e.Dirty), SentPages: sent,
		})
	}
	e.Rounds, e.Completed, e.Sent = h.list, h.n, h.sent
	return e
}

// step asks the head, and enters the phase that follows, as the engine does.
func (h *hands) step(e Event) string {
	a := h.head.Step(h.now, e)
	switch {
	case a.Phase != "":
		h.phase = a.Phase
	case e.Kind == KindStart, e.Kind == KindResumed, e.Kind == KindRewound:
		h.phase = PhasePreCopy
	case e.Kind == KindStanding && a.Verb == Switchover:
		h.phase = PhaseStopCopy
	}
	var b strings.Builder
	b.WriteString(a.Verb.String())
	if a.Until > 0 {
		fmt.Fprintf(&b, " until %v", a.Until)
	}
	if a.Phase != "" {
		fmt.Fprintf(&b, ", %s", a.Phase)
	}
	if a.Reason != "" {
		fmt.Fprintf(&b, ": %s", a.Reason)
	}
	if a.GaveUp {
		b.WriteString(", gave up")
	}
	if a.Err != nil {
		fmt.Fprintf(&b, ": %v", a.Err)
	}
	if a.Warning != "" {
		fmt.Fprintf(&b, "; warning: %s", a.Warning)
	}
	return b.String()
}
