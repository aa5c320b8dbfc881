package show

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"taskguide/control"
	"taskguide/control/text"
	"taskguide/control/units"
	"taskguide/migration"
)

// Progress shows a migration as its events come in.
type Progress interface {
	// Event takes the next event.
	Event(control.Event)
	// Close leaves what was shown in order. No event may follow.
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

// NewPlain shows lines on w and never removes one.
func NewPlain(w io.Writer) Progress { return &plain{w: w} }

func (p *plain) Event(e control.Event) {
	switch migration.NoticeKind(e.Kind) {
	case migration.NoticeRound:
		if !p.header {
			p.header = true
			fmt.Fprintln(p.w, Header())
		}
		fmt.Fprintln(p.w, Row(*e.Round))
	case migration.NoticeStandstill:
		standstill(p.w, *e.Standstill)
	case migration.NoticePhase:
		if text := heldText(e.Phase); text != "" && e.Phase != p.phase {
			fmt.Fprintln(p.w, text)
		}
		p.phase = e.Phase
	}
}

func (p *plain) Close() {}

// heldText explains the phases in which a migration waits.
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

// standstill says that a switchover was taken back.
func standstill(w io.Writer, s migration.Standstill) {
	text.Hanging(w, "", s.Ended)
	fmt.Fprintf(w, "  the guest stood still for %s and runs on\n", units.Milliseconds(s.MS))
}

// barColumns is the width of the live line's bar. The rest of the line leaves no more room.
const barColumns = 8

// live is plain with a bar for the present round below the lines.
type live struct {
	lines *plain
	bars  *mpb.Progress
	bar   *mpb.Bar
	clock func() time.Time
	begun time.Time

	mu       sync.Mutex // guards what follows
	phase    migration.Phase
	gateOpen bool
	now      migration.Progress
	estimate estimate
}

// NewLive shows lines and a live bar on w, a terminal.
func NewLive(w io.Writer) Progress {
	return newLive(mpb.New(mpb.WithOutput(w)), time.Now)
}

func newLive(bars *mpb.Progress, clock func() time.Time) *live {
	l := &live{
		bars: bars, lines: &plain{w: bars}, clock: clock, begun: clock(),
		phase: migration.PhaseSetup, gateOpen: true,
	}
	l.bar = bars.New(0, mpb.BarStyle().Rbound("|").Lbound("|"),
		mpb.BarRemoveOnComplete(),
		mpb.BarWidth(barColumns),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return l.left() })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return l.right() })))
	return l
}

// The bar's own goroutine calls left and right.
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
	now := l.clock()
	elapsed := seconds(now.Sub(l.begun))
	parts := []string{"", units.BitRate(l.now.BytesPerS)}
	if !l.gateOpen {
		parts = append(parts, "gate closed")
		if l.now.DeferredMS > 0 {
			deferred := time.Duration(l.now.DeferredMS * float64(time.Millisecond))
			parts = append(parts, "deferred "+seconds(deferred))
		}
		return strings.Join(append(parts, elapsed), "  ")
	}
	parts = append(parts, units.Bytes(l.now.BytesWire))
	if left, ok := l.estimate.remaining(now); ok && l.now.Round > 0 {
		elapsed += ", ~" + seconds(left) + " left"
	}
	return strings.Join(append(parts, elapsed), "  ")
}

// seconds writes a duration without fractions.
func seconds(d time.Duration) string { return d.Round(time.Second).String() }

func (l *live) Event(e control.Event) {
	l.note(e)
	if p := e.Progress; p != nil {
		l.bar.SetTotal(max(p.RoundPages, 1), false)
		l.bar.SetCurrent(min(p.DonePages, p.RoundPages))
	}
	l.lines.Event(e)
}

// note records what the bar's line says. Lines are written without the lock, because the bar's
// goroutine may be waiting for it.
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
		l.estimate.progress(e.Time, *e.Progress)
	}
	if e.Round != nil {
		l.estimate.roundDone(*e.Round)
	}
}

func (l *live) Close() {
	l.bar.Abort(true)
	l.bars.Wait()
}
