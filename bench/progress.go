package bench

import (
	"fmt"
	"io"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"taskguide/bench/trial"
	"taskguide/control/units"
)

// Progress shows how a run gets on.
type Progress interface {
	// Begin is told how many trials there are, and when the run ends even if some are left.
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
	fmt.Fprintf(p.w, "%*d/%d  %s  (%s left)\n", len(fmt.Sprint(p.total)), p.done, p.total, outcome(r), short(p.left()))
}

// left is an estimate of the time to the end.
func (p *plain) left() time.Duration {
	if p.done == 0 {
		return time.Until(p.deadline)
	}
	each := time.Since(p.begun) / time.Duration(p.done)
	return min(each*time.Duration(p.total-p.done), time.Until(p.deadline))
}

func (p *plain) Say(line string) { fmt.Fprintln(p.w, line) }
func (p *plain) End()            {}

// outcome is a trial in a line.
func outcome(r trial.Result) string {
	if r.Error != "" {
		return fmt.Sprintf("%-34s FAILED: %s", r.Spec.ID, r.Error)
	}
	return fmt.Sprintf("%-34s downtime %-8s gap %-8s total %-8s", r.Spec.ID,
		units.Milliseconds(r.Report.DowntimeMS), units.Milliseconds(r.GapMS), units.Milliseconds(r.Report.TotalMS))
}

func short(d time.Duration) string { return max(0, d).Round(time.Second).String() }

// live is one bar, with the last trial beside it and the time left.
type live struct {
	plain
	bars *mpb.Progress
	bar  *mpb.Bar
	last chan string // the newest line, if there is one that was not shown
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
		mpb.BarWidth(30),
		mpb.PrependDecorators(decor.CountersNoUnit("%d of %d trials ")),
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
	if r.Error != "" {
		l.Say(outcome(r))
	}
	select {
	case <-l.last:
	default:
	}
	l.last <- fmt.Sprintf(" %s left  %s", short(l.left()), outcome(r))
	l.bar.IncrBy(1)
}

func (l *live) End() {
	l.bar.Abort(false)
	l.bars.Wait()
}
