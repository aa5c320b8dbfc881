package trial

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"taskguide/control"
	"taskguide/dirtylog/trace"
	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
)

// patience bounds a trial. It is far longer than any trial takes.
const patience = 3 * time.Minute

// graceTime is how long a cancelled migration may take to end by itself.
const graceTime = 10 * time.Second

// Site is where trials run.
type Site struct {
	// Binary is the vmm program.
	Binary string
	// Before is another vmm program, for trials that ask for it.
	Before string
	// QEMU is QEMU's program; the installed one if empty.
	QEMU string
	// Link is what migrations go over; nil is the loopback.
	Link *Link
	// Hosts are those at which guests start and arrive; nil is this one. There is no Link then.
	Hosts *Hosts
	// Kernel is the file of the guest, for QEMU and for Before, whose embedded guest may differ.
	Kernel string
}

// Run runs one trial. It leaves no process and no file behind. If the trial could not be completed,
// or its guest found its memory corrupt, Result.Error says so.
func (site *Site) Run(ctx context.Context, spec Spec) Result {
	spec.Guest.CPUs = max(1, spec.Guest.CPUs)
	r := Result{Spec: spec, Started: time.Now()}
	ctx, cancel := context.WithTimeout(ctx, spec.patience())
	defer cancel()
	err := spec.checkRTT()
	if err == nil {
		err = site.Hosts.beginTrial(ctx, &r)
	}
	heard := site.Hosts.listen(ctx, &r.Noise)
	switch {
	case err != nil:
	case spec.Contest != nil:
		err = site.onStage(ctx, &r, (*stage).contest)
	case spec.Baseline != "":
		err = site.runBaseline(ctx, &r)
	case spec.QEMU != nil:
		err = site.runQEMU(ctx, &r)
	case spec.Moves > 0:
		err = site.runMoves(ctx, &r)
	default:
		err = site.onStage(ctx, &r, (*stage).move)
	}
	during := heard()
	r.Noise.During = &during
	if err != nil {
		r.Error = migration.OneLine(err.Error())
	}
	r.Seconds = time.Since(r.Started).Seconds()
	return r
}

// stage is one trial under way.
type stage struct {
	site        *Site
	spec        Spec
	result      *Result
	guest       heartbeat.Log // what the guest prints, wherever it is
	source      *process
	destination *process
	follower    *follower
	// hearDestination lets the destination's output into guest, once all of the source's is in,
	// because the two are one text.
	hearDestination func()

	// insecure says that the programs must be told to send plain text over the link.
	insecure  bool
	endRelay  func() error
	requested time.Time
	trace     []byte // the recording's file, nil without one
	traceEnd  trace.End
	span      span
}

// onStage plays a trial that has a folder at each host, and leaves nothing of it behind.
func (site *Site) onStage(
	ctx context.Context, r *Result, play func(*stage, context.Context, string) error,
) (err error) {
	dir, err := os.MkdirTemp("", "vmm-bench-")
	if err != nil {
		return fmt.Errorf("make a folder for the trial: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	if err := site.Hosts.makeFolders(ctx, dir); err != nil {
		return err
	}
	defer site.Hosts.removeFolders(dir)
	s := &stage{site: site, spec: r.Spec, result: r, endRelay: func() error { return nil }}
	defer func() { err = errors.Join(err, s.strike()) }()
	return play(s, ctx, dir)
}

// move is the trial of one move.
func (s *stage) move(ctx context.Context, dir string) error {
	address, err := s.setUp(ctx, dir)
	if err != nil {
		return err
	}
	if err := s.awaitRequest(ctx); err != nil {
		return err
	}
	if err := s.migrate(ctx, address); err != nil {
		return err
	}
	if err := s.watchOn(ctx); err != nil || s.trace == nil {
		return err
	}
	s.result.Simulated, err = s.simulate(ctx, s.trace, s.traceEnd)
	return err
}

// setUp starts both processes and returns where the destination listens.
func (s *stage) setUp(ctx context.Context, dir string) (address string, err error) {
	args, wait, err := s.arguments(ctx, dir)
	if err != nil {
		return "", err
	}
	binary := s.site.Binary
	if s.spec.Before {
		binary = s.site.Before
	}
	started := make(chan struct{})
	close(started)
	s.source, err = startVMM(binary, dir, "source", s.site.source(), &s.guest, started, args...)
	if err != nil {
		return "", err
	}
	// The destination's output continues the source's, perhaps in the middle of a line.
	heard := make(chan struct{})
	s.hearDestination = sync.OnceFunc(func() { close(heard) })
	s.destination, err = startVMM(binary, dir, "destination", s.site.destination(), &s.guest, heard,
		wait...)
	if err != nil {
		return "", err
	}
	if _, err := s.source.await(ctx, "running", func(vm control.VM) bool {
		return vm.State == control.StateRunning
	}); err != nil {
		return "", err
	}
	s.follower, err = follow(ctx, s.source, s.site.source().host, s.spec.Guest)
	if err != nil {
		return "", err
	}
	vm, err := s.destination.await(
		ctx,
		"listening",
		func(vm control.VM) bool { return vm.Incoming != "" },
	)
	if err != nil {
		return "", err
	}
	address, err = s.site.Hosts.reach(vm.Incoming)
	if err == nil {
		address, s.endRelay, err = s.site.relayTo(address, s.spec.RTT)
	}
	return address, err
}

// arguments are those of source and destination. Files that they name are in dir, or at their
// hosts.
func (s *stage) arguments(ctx context.Context, dir string) (
	source, destination []string, err error,
) {
	g := s.spec.Guest
	source = []string{
		"--memory", fmt.Sprint(g.MemoryBytes), "--cpus", fmt.Sprint(g.CPUs), "--cmdline",
		g.Cmdline(),
	}
	binary := s.site.Binary
	if s.spec.Before {
		binary, source = s.site.Before, append(source, "--kernel", s.site.Kernel)
	}
	destination = []string{"--incoming", s.site.destination().listenAddress()}
	machine, devices, err := g.machine(dir, s.site.source().host)
	if err != nil {
		return nil, nil, err
	}
	more, err := g.devices(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	source = append(append(source, machine...), more...)
	destination = append(append(destination, devices...), more...)
	if g.Prefault {
		source = append(source, "--prefault")
		// With --memory, the destination has its RAM ready before the guest comes.
		destination = append(destination, "--prefault", "--memory", fmt.Sprint(g.MemoryBytes))
	}
	if g.Tracker != "" {
		source = append(source, "--dirty-log", g.Tracker)
	}
	if s.insecure = s.site.plain() && takes(ctx, binary, insecureFlag); s.insecure {
		destination = append(destination, insecureFlag)
	}
	if at := s.site.destination().host; at != nil && at.TLSDir != "" {
		destination = append(destination, "--tls-dir", at.TLSDir)
	}
	return source, destination, nil
}

// insecureFlag lets a destination take guests over a Link in plain text.
const insecureFlag = "--insecure"

// takes tells whether a program's vmm run has a flag. An earlier build may not.
func takes(ctx context.Context, binary, flag string) bool {
	help, err := exec.CommandContext(ctx, binary, "run", "--help").Output()
	return err == nil && strings.Contains(string(help), flag+" ")
}

// strike ends what still runs, and waits until it has ended.
func (s *stage) strike() error {
	if s.hearDestination != nil {
		s.hearDestination()
	}
	for _, p := range []*process{s.source, s.destination} {
		if p != nil {
			p.end()
			<-p.done
		}
	}
	if s.follower != nil {
		<-s.follower.finished
	}
	return s.endRelay()
}

// awaitRequest waits until the guest has been watched long enough and is at the point of its cycle
// at which to request the migration.
func (s *stage) awaitRequest(ctx context.Context) error {
	alive, cancel := s.source.whileAlive(ctx)
	defer cancel()
	if s.spec.Guest.Ready != "" {
		if err := s.awaitReady(alive); err != nil {
			return s.source.explain(err)
		}
		return nil
	}
	if err := awaitBeats(alive, &s.guest, s.spec); err != nil {
		return s.source.explain(err)
	}
	if s.spec.Record != nil {
		var err error
		if s.trace, s.traceEnd, err = s.record(alive, s.spec.Record); err != nil {
			return s.source.explain(err)
		}
	}
	cycle := s.spec.Guest.Cycle()
	if s.spec.Guest.tellsPhases() {
		err := s.follower.awaitOffset(ctx, s.spec.Offset, cycle)
		if !errors.Is(err, errNoTags) {
			return err
		}
	}
	sleep(ctx, untilOffset(time.Now(), cycleAt(running(s.guest.Beats())), s.spec.Offset, cycle))
	return ctx.Err()
}

// awaitBeats waits for the heartbeats before the request. A difference takes one more than there
// are seconds.
func awaitBeats(ctx context.Context, log *heartbeat.Log, spec Spec) error {
	beats := 1
	if spec.BeatsBefore > 0 {
		beats += spec.BeatsBefore
	}
	tasks := max(1, spec.Guest.CPUs)
	if spec.Guest.Kernel != "" {
		tasks = 1 // how many of the user's own run is not known
	}
	_, err := awaitRunning(ctx, log, beats*tasks-1)
	if err != nil && spec.Guest.Kernel != "" && len(log.Beats()) == 0 {
		return fmt.Errorf("%w: %w", errNoBeats, err)
	}
	return err
}

// errNoBeats is of a kernel of the user's own that the bench cannot move as if it were the embedded
// guest.
var errNoBeats = errors.New("the kernel prints no heartbeats as the embedded guest does, which " +
	"tell when to move it and what it felt")

func (s *stage) migrate(ctx context.Context, address string) error {
	r := s.result
	params := s.spec.Params
	params.Destination, params.Insecure = address, s.insecure
	if at := s.site.source().host; at != nil {
		params.TLSDir = at.TLSDir
	}
	filled, err := params.WithDefaults()
	if err != nil {
		return err
	}
	if !s.spec.Before {
		params = filled
	} // an earlier build may not know the field, and has its own default
	before, err := s.cpu()
	if err != nil {
		return err
	}
	sent, err := s.site.Link.sentBytes()
	if err != nil {
		return err
	}
	stopGuest, err := s.source.meterGuest()
	if err != nil {
		return err
	}
	s.span.asked = len(running(s.guest.Beats()))
	s.requested = time.Now()
	r.Request = s.follower.request(s.spec.Guest.Cycle())
	if r.Request.Anchor == "heartbeats" {
		r.Request.Offset = offsetByBeats(
			running(s.guest.Beats()),
			s.requested,
			s.spec.Guest.Cycle(),
		)
	}
	defer context.AfterFunc(ctx, func() { time.AfterFunc(graceTime, s.source.end) })()
	r.Report, err = s.source.client.Migrate(ctx, params, func(control.Event) {})
	r.CPU.Guest = stopGuest()
	if err != nil {
		return s.destination.explain(err)
	}
	after, err := s.cpu()
	if err != nil {
		return err
	}
	r.CPU.Source, r.CPU.Destination = after[0]-before[0], after[1]-before[1]
	sentAfter, err := s.site.Link.sentBytes()
	if err != nil {
		return err
	}
	r.LinkBytes = sentAfter - sent
	if r.Report.Status != migration.StatusCompleted {
		return s.destination.explain(
			fmt.Errorf("migration %s: %s", r.Report.Status, r.Report.Error),
		)
	}
	return obeyed(r.Report)
}

// errNotObeyed is of a move under another policy than the one in whose name it would be counted.
var errNotObeyed = errors.New("the policy's program was given up, and another decided")

// obeyed fails unless a move was led by its policy to the end.
func obeyed(r migration.Report) error {
	if r.PolicyError != "" {
		return fmt.Errorf("%w: %s", errNotObeyed, r.PolicyError)
	}
	return nil
}

func offsetByBeats(beats []heartbeat.Beat, now time.Time, cycle time.Duration) float64 {
	if cycle <= 0 || len(beats) == 0 {
		return 0
	}
	return float64(now.Sub(cycleAt(beats))%cycle) / float64(cycle)
}

// cpu is the processor time used so far by source and destination.
func (s *stage) cpu() ([2]float64, error) {
	var used [2]float64
	for i, p := range []*process{s.source, s.destination} {
		var err error
		if used[i], err = p.used(); err != nil {
			return used, err
		}
	}
	return used, nil
}

// watchOn follows the guest at the destination and collects its output.
func (s *stage) watchOn(ctx context.Context) error {
	select {
	case <-s.source.silent: // all of its output is in
	case <-ctx.Done():
		return fmt.Errorf("waiting for the end of %s: %w", s.source.name, ctx.Err())
	}
	s.span.moved = len(running(s.guest.Beats()))
	s.hearDestination()
	if err := s.source.succeed(ctx); err != nil {
		return err
	}
	if s.spec.Guest.Ready != "" {
		return s.watchSilent(ctx)
	}
	want := max(1, s.spec.BeatsAfter)
	alive, cancel := s.destination.whileAlive(ctx)
	defer cancel()
	for n := s.span.moved; ; n++ {
		beats, err := awaitRunning(alive, &s.guest, n)
		if err != nil {
			return s.destination.explain(err)
		}
		if allComplete(byTask(beats, s.span), want) {
			s.result.readBeats(beats, s.span)
			s.result.readSilences(s.source.watch, s.destination.watch, s.requested)
			s.result.readHeard(s.source.watch.Times(), s.destination.watch.Times(), s.requested)
			break
		}
	}
	s.result.Moved = parseMoved(s.guest.String())
	select {
	case <-s.follower.finished:
	case <-ctx.Done():
		return ctx.Err()
	}
	s.result.Marks = s.follower.marks(s.requested)
	return nil
}

func allComplete(tasks map[int]*series, n int) bool {
	for _, t := range tasks {
		if !t.complete(n) {
			return false
		}
	}
	return len(tasks) > 0
}
