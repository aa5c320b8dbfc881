package bench

import (
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"taskguide/bench/trial"
	"taskguide/control/text"
)

// Progress shows how a run advances.
type Progress interface {
	// Begin says how many trials there are, and when the run ends even if some are left.
	Begin(trials int, deadline time.Time)
	Trial(trial.Result)
	Say(line string)
	End()
}

// plain writes a line for each trial.
type plain struct {
	w           io.Writer
	done, total int
	begun       time.Time
	deadline    time.Time
}

// NewPlain shows lines on w.
func NewPlain(w io.Writer) Progress { return &plain{w: w} }

func (p *plain) Begin(trials int, deadline time.Time) {
	p.total, p.begun, p.deadline = trials, time.Now(), deadline
}

func (p *plain) Trial(r trial.Result) {
	p.done++
	if p.done == 1 {
		p.row("", "trial", "downtime", "gap", "total", "left")
	}
	number := fmt.Sprintf("%*d/%d", len(fmt.Sprint(p.total)), p.done, p.total)
	stood, paused, took := "-", "-", "-"
	if r.Error == "" && r.Spec.Contest == nil {
		stood, paused, took = cell(downtime, r), cell(gap, r), cell(total, r)
	}
	id := r.Spec.ID
	if utf8.RuneCountInString(id) > p.idColumns() { // it gets a line of its own
		text.Hanging(p.w, number+" ", id)
		number, id = "", ""
	}
	p.row(number, id, stood, paused, took, short(p.left()))
	fault(p.w, r)
}

// cell writes what a metric is in a trial, or a dash where nobody measured it.
func cell(m metric, r trial.Result) string {
	v, ok := m.of(r)
	if !ok {
		return "–"
	}
	return m.write(v)
}

// row writes the columns of a trial.
func (p *plain) row(number, id, downtime, gap, total, left string) {
	fmt.Fprintf(p.w, "%-*s %-*s %8s %7s %7s %7s\n", p.numberColumns(), number, p.idColumns(), id,
		downtime, gap, total, left)
}

// numberColumns has room for "100/100", or for more trials.
func (p *plain) numberColumns() int { return max(7, 2*len(fmt.Sprint(p.total))+1) }

// idColumns is what the other columns leave on a terminal's line.
func (p *plain) idColumns() int {
	const times = len(" 8888.8 s") + 3*len(" 888.8 s") + 2
	return text.Columns - times - p.numberColumns()
}

// fault says what is wrong with a trial, if anything.
func fault(w io.Writer, r trial.Result) {
	switch {
	case r.Error != "":
		text.Hanging(w, "        FAILED: ", r.Error)
	case r.Noise.Noisy():
		fmt.Fprintf(w, "        NOISY: others took %.1f CPUs\n", loudest(r.Noise))
	}
}

// left estimates the remaining time.
func (p *plain) left() time.Duration {
	if p.done == 0 {
		return time.Until(p.deadline)
	}
	each := time.Since(p.begun) / time.Duration(p.done)
	return min(each*time.Duration(p.total-p.done), time.Until(p.deadline))
}

func (p *plain) Say(line string) { text.Hanging(p.w, "", line) }
func (p *plain) End()            {}

// short writes a time in at most seven letters, if it is less than a thousand hours.
func short(d time.Duration) string {
	if d = max(0, d).Round(time.Second); d < time.Hour {
		return d.String()
	}
	return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
}

// cut shortens an ID to the given width.
func cut(id string, columns int) string {
	if letters := []rune(id); len(letters) > columns {
		return string(letters[:max(0, columns-1)]) + "…"
	}
	return id
}

// The widths of what stands before the time left.
const (
	barColumns = 10
	counters   = "%d of %d trials "
)

// live is one bar, with the last trial beside it and the time left.
type live struct {
	plain
	bars *mpb.Progress
	bar  *mpb.Bar
	last chan string // the newest line, unless it was shown
}

// NewLive shows a bar on w, a terminal.
func NewLive(w io.Writer) Progress {
	return &live{plain: plain{w: w}, bars: mpb.New(mpb.WithOutput(w)), last: make(chan string, 1)}
}

func (l *live) Begin(trials int, deadline time.Time) {
	l.w = l.bars
	l.plain.Begin(trials, deadline)
	shown := ""
	l.bar = l.bars.New(int64(max(trials, 1)), mpb.BarStyle().Lbound("|").Rbound("|"),
		mpb.BarWidth(barColumns),
		mpb.PrependDecorators(decor.CountersNoUnit(counters)),
		mpb.AppendDecorators(
			decor.Any(func(decor.Statistics) string {
				select {
				case shown = <-l.last:
				default:
				}
				return shown
			}),
		))
}

func (l *live) Trial(r trial.Result) {
	l.done++
	if r.Error != "" || r.Noise.Noisy() {
		l.Say(r.Spec.ID)
		fault(l.w, r)
	}
	select {
	case <-l.last:
	default:
	}
	l.last <- l.beside(r.Spec.ID)
	l.bar.IncrBy(1)
}

// beside is what stands behind the bar. The ID is cut to what is left of a terminal's line.
func (l *live) beside(id string) string {
	left := fmt.Sprintf(" %s left  ", short(l.left()))
	before := fmt.Sprintf(counters, l.total, l.total)
	return left + cut(id, text.Columns-len(before)-barColumns-len(left))
}

func (l *live) End() {
	l.bar.Abort(false)
	l.bars.Wait()
}
