package trial

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"taskguide/control"
	"taskguide/guestkernel/heartbeat"
	"taskguide/tagging"
)

// pollInterval is how often a process is asked whether it is ready. Nothing is measured during that
// time.
const pollInterval = 5 * time.Millisecond

// process is a vmm run.
type process struct {
	child
	name   string
	client *control.Client
	// forward leads to its control socket at another host; nil at this one.
	forward io.Closer
	watch   *heartbeat.Watch
	silent  <-chan struct{} // closed once all that its guest printed is in the log
	done    chan struct{}   // closed once it has ended
	ending  Ending          // once done is closed
}

// startVMM starts a vmm run whose control socket and name are in dir. The guest's output goes to
// log once after is closed.
func startVMM(
	binary, dir, name string, side Side, log *heartbeat.Log, after <-chan struct{}, args ...string,
) (p *process, err error) {
	p = &process{name: name, done: make(chan struct{})}
	socket := filepath.Join(dir, name+".sock")
	if p.client, err = control.NewClient(socket); err != nil {
		return nil, err
	}
	// Not StdoutPipe, because Wait would close it before its output is read.
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	order := append([]string{"run", "--name", name, "--api", side.path(socket)}, args...)
	if side.host == nil {
		p.child, err = startLocal(binary, dir, side, in, order)
	} else {
		p.child, err = startRemote(side.host, dir, name, in, order)
	}
	if err != nil {
		out.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		p.ending = p.wait()
		close(p.done)
	}()
	p.watch = heartbeat.NewWatch(out, log, after)
	p.silent = p.watch.Done()
	if side.host != nil {
		at := filepath.Join(filepath.Base(dir), filepath.Base(socket))
		if p.forward, err = side.host.Conn.Forward(socket, at); err != nil {
			p.end()
			<-p.done
			return nil, fmt.Errorf("reach %s: %w", name, err)
		}
	}
	return p, nil
}

// end kills the process with its guest.
func (p *process) end() {
	p.kill()
	p.client.Close()
	if p.forward != nil {
		_ = p.forward.Close()
	}
}

// await asks the VM until it is in the wanted state.
func (p *process) await(
	ctx context.Context, what string, ok func(control.VM) bool,
) (control.VM, error) {
	for {
		vm, err := p.client.VM(ctx)
		if err == nil && ok(vm) {
			return vm, nil
		}
		select {
		case <-p.done:
			return vm, p.explain(errors.New("waiting for it to be " + what))
		case <-ctx.Done():
			return vm, fmt.Errorf("waiting for %s to be %s: %w", p.name, what, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}

// succeed waits until the process has ended without an error.
func (p *process) succeed(ctx context.Context) error {
	select {
	case <-p.done:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the end of %s: %w", p.name, ctx.Err())
	}
	if p.ending.Status != 0 {
		return p.explain(errors.New("it was to end with status 0"))
	}
	return nil
}

// whileAlive returns a context that also ends with the process.
func (p *process) whileAlive(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-p.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}

// explain adds to an error that the process has ended, if it has, and its last words.
func (p *process) explain(err error) error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended (%s) %s: %w", p.name, p.ending.State, p.ending.Stderr, err)
	case <-time.After(time.Second):
		return err
	}
}

// used is the processor time so far, in seconds, or the total once the process has ended.
func (p *process) used() (float64, error) {
	s, err := p.cpuSeconds()
	if err == nil {
		return s, nil
	}
	select {
	case <-p.done:
		return p.ending.CPUSeconds, nil
	case <-time.After(time.Second):
		return 0, err
	}
}

// follower collects the events of a VM.
type follower struct {
	guest Guest
	host  *Host // of the VM; nil for this one

	mu      sync.Mutex
	events  []control.Event
	busyAt  time.Time     // when the last busy phase began, by the tags
	phaseAt time.Time     // when the last phase began, whichever it is
	inside  bool          // a segment
	changed chan struct{} // closed and replaced when busyAt changes

	finished chan struct{} // closed at the end of the stream
}

// follow subscribes to a VM's events. It includes tags only if they are few enough not to be a load
// themselves.
func follow(ctx context.Context, p *process, host *Host, g Guest) (*follower, error) {
	subscribe := p.client.Events
	if g.Cycle() > steadyCycle {
		subscribe = p.client.TagEvents
	}
	stream, err := subscribe(ctx)
	if err != nil {
		return nil, err
	}
	f := &follower{
		guest: g, host: host, changed: make(chan struct{}), finished: make(chan struct{}),
	}
	go func() {
		defer close(f.finished)
		defer stream.Close()
		for {
			e, err := stream.Next()
			if err != nil {
				return // the VM has gone
			}
			f.note(e)
		}
	}()
	return f, nil
}

func (f *follower) note(e control.Event) {
	e.Time = f.host.local(e.Time)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events = append(f.events, e)
	if e.Tag == nil {
		return
	}
	was := f.inside
	f.inside = e.Tag.Depth > 0
	if e.Tag.Event == tagging.Registered || was != f.inside {
		f.phaseAt = f.host.local(e.Tag.Time)
	}
	// A task registers when it begins its first busy phase.
	if e.Tag.Event == tagging.Registered ||
		was != f.inside && f.inside == (f.guest.Tag == TagBusy) {
		f.busyAt = f.host.local(e.Tag.Time)
		close(f.changed)
		f.changed = make(chan struct{})
	}
}

// tellsPhases says whether the guest's tags show its phases before a migration begins. The host
// does not see the tags of the tag page until then.
func (g Guest) tellsPhases() bool {
	return (g.Tag == TagCool || g.Tag == TagBusy) && g.Cycle() > steadyCycle
}

var errNoTags = errors.New("no tag has been seen")

// awaitOffset waits until the guest is at that point of its cycle.
func (f *follower) awaitOffset(ctx context.Context, offset float64, cycle time.Duration) error {
	patience := time.NewTimer(3*cycle + 5*time.Second)
	defer patience.Stop()
	for {
		f.mu.Lock()
		busyAt, changed := f.busyAt, f.changed
		f.mu.Unlock()
		left := time.Until(busyAt.Add(time.Duration(offset * float64(cycle))))
		if !busyAt.IsZero() && left > -pollInterval {
			sleep(ctx, left)
			return ctx.Err()
		}
		select {
		case <-changed:
		case <-patience.C:
			return errNoTags
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// request describes the present moment.
func (f *follower) request(cycle time.Duration) Request {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := Request{Anchor: "heartbeats", GateOpen: f.inside}
	if f.guest.tellsPhases() && !f.busyAt.IsZero() {
		r.Anchor, r.Offset = "tags", float64(time.Since(f.busyAt))/float64(cycle)
		r.PhaseMS = float64(time.Since(f.phaseAt)) / float64(time.Millisecond)
	}
	return r
}

// marks lists the events, with times relative to the request.
func (f *follower) marks(requested time.Time) []Mark {
	f.mu.Lock()
	defer f.mu.Unlock()
	var marks []Mark
	for _, e := range f.events {
		if m, ok := markOf(e); ok {
			m.MS = float64(e.Time.Sub(requested)) / float64(time.Millisecond)
			marks = append(marks, m)
		}
	}
	return marks
}

func markOf(e control.Event) (Mark, bool) {
	m := Mark{Kind: e.Kind}
	switch {
	case e.Tag != nil:
		inside := e.Tag.Depth > 0
		m.Inside = &inside
	case e.Progress != nil:
		m.WireBytes = e.Progress.BytesWire
	case e.Round != nil:
		m.Round = e.Round.N
	case e.Kind == "phase":
		m.Phase = e.Phase
	case e.Kind == "gate":
		m.Inside = e.GateOpen
	default:
		return m, false
	}
	return m, true
}
