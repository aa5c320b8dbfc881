package show

import (
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"taskguide/control"
	"taskguide/control/units"
	"taskguide/migration"
)

// Progress shows a migration as its events come in.
type Progress interface {
	// Event takes the next event.
	Event(control.Event)
	// Close leaves what was shown in order; nothing may follow.
	Close()
}

// Discard shows nothing.
type Discard struct{}

func (Discard) Event(control.Event) {}
func (Discard) Close()              {}

// plain adds a line for each round and for each change of what the migration is doing.
type plain struct {
	w      io.Writer
	header bool
	phase  migration.Phase
}

// NewPlain shows lines on w and never takes one back.
func NewPlain(w io.Writer) Progress { return &plain{w: w} }

func (p *plain) Event(e control.Event) {
	switch migration.EventKind(e.Kind) {
	case migration.EventRound:
		if !p.header {
			p.header = true
			fmt.Fprintln(p.w, Header())
		}
		fmt.Fprintln(p.w, Row(*e.Round))
	case migration.EventPhase:
		if text := heldText(e.Phase); text != "" && e.Phase != p.phase {
			fmt.Fprintln(p.w, text)
		}
		p.phase = e.Phase
	}
}

func (p *plain) Close() {}

// heldText explains the phases in which a migration does not get on.
func heldText(p migration.Phase) string {
	switch p {
	case migration.PhaseWaiting:
		return "waiting: the migration begins once the gate is open"
	case migration.PhaseSuspended:
		return "suspended: the gate has closed, no page is sent until it opens"
	case migration.PhaseHeld:
		return "held: converged, stop-and-copy waits for the gate"
	default:
		return ""
	}
}

// live is plain with a bar for the present round below the lines.
type live struct {
	lines *plain
	bars  *mpb.Progress
	bar   *mpb.Bar

	mu       sync.Mutex
	phase    migration.Phase
	gateOpen bool
	now      migration.Progress
}

// NewLive shows lines and a live bar on w, a terminal.
func NewLive(w io.Writer) Progress {
	return newLive(mpb.New(mpb.WithOutput(w)))
}

func newLive(bars *mpb.Progress) *live {
	l := &live{bars: bars, lines: &plain{w: bars}, phase: migration.PhaseSetup, gateOpen: true}
	l.bar = bars.New(0, mpb.BarStyle().Rbound("|").Lbound("|"),
		mpb.BarRemoveOnComplete(),
		mpb.BarWidth(32),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return l.left() })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return l.right() })))
	return l
}

// left and right are called by the bar's own goroutine.
func (l *live) left() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now.Round == 0 {
		return string(l.phase)
	}
	return fmt.Sprintf("%s, round %d", l.phase, l.now.Round)
}

func (l *live) right() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	parts := []string{"", units.BitRate(l.now.BytesPerS), units.Bytes(l.now.BytesWire), "gate " + gate(l.gateOpen)}
	if l.now.WaitedMS > 0 {
		parts = append(parts, "waited "+units.Milliseconds(l.now.WaitedMS))
	}
	if l.now.SuspendedMS > 0 {
		parts = append(parts, "suspended "+units.Milliseconds(l.now.SuspendedMS))
	}
	return strings.Join(parts, "  ")
}

func (l *live) Event(e control.Event) {
	l.note(e)
	if p := e.Progress; p != nil {
		l.bar.SetTotal(max(p.RoundPages, 1), false)
		l.bar.SetCurrent(min(p.DonePages, p.RoundPages))
	}
	l.lines.Event(e)
}

// note remembers what the bar's line says; lines are written without the lock, as the bar's goroutine may be waiting
// for it.
func (l *live) note(e control.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e.Phase != "" {
		l.phase = e.Phase
	}
	if e.GateOpen != nil {
		l.gateOpen = *e.GateOpen
	}
	if e.Progress != nil {
		l.now = *e.Progress
	}
}

func (l *live) Close() {
	l.bar.Abort(true)
	l.bars.Wait()
}
