// Command demo shows the main job: a guest that is busy writing memory moves, live, over TCP to
// another process. It runs the vmm binary as a user would, follows the migration through the
// control socket, and cleans up after itself, however it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"taskguide/cmd/cli"
	"taskguide/control"
	"taskguide/control/process"
	"taskguide/control/show"
	"taskguide/control/text"
	"taskguide/control/units"
	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
)

const (
	workload  = "workload=phased ws=64M hot=1M busy=1s cool=1s fill=random tag=cool"
	memory    = "512M"
	bandwidth = 1e9 // bit/s
	// downtimeLimit is too short for the working set of a busy phase.
	downtimeLimit = 40 * time.Millisecond

	beatsBefore, beatsAfter = 2, 4 // seconds of heartbeats to show
	// patience bounds every wait for something that takes moments.
	patience = 30 * time.Second
)

func main() {
	// Pdeathsig fires when the thread that started the child ends, so main keeps its thread.
	runtime.LockOSThread()
	vmm := flag.String("vmm", "bin/vmm", "the vmm binary")
	flag.Parse()
	ctx, stop := cli.UntilSignal(context.Background(), os.Interrupt, syscall.SIGTERM,
		syscall.SIGHUP)
	defer stop()
	if err := run(ctx, *vmm); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, vmm string) error {
	dir, err := os.MkdirTemp("", "vmm-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Setenv("VMM_RUNTIME_DIR", dir); err != nil {
		return err
	}
	if vmm, err = filepath.Abs(vmm); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &stage{vmm: vmm, ctx: ctx}
	// In reverse order: end the processes, wait for them, remove their directory.
	defer s.children.Wait()
	defer cancel()
	err = s.play()
	if err != nil && ctx.Err() != nil {
		return errors.New("interrupted")
	}
	return err
}

// stage is the place of the demonstration: its directory, processes and output.
type stage struct {
	vmm string
	//nolint:containedctx // of the one demonstration, that of all its processes too
	ctx      context.Context
	children sync.WaitGroup
	guest    heartbeat.Log // the guest's output, wherever it runs
}

func (s *stage) play() error {
	text.Hanging(os.Stdout, "", "A source runs a guest with "+memory+
		" of memory, which rewrites 64 MiB of it in bursts; a destination waits.")
	say("")
	started := make(chan struct{})
	close(started)
	source, err := s.start(started, "run", "--name", "source", "--memory", memory, "--cmdline",
		workload)
	if err != nil {
		return err
	}
	// The destination's output continues the source's, perhaps in the middle of a line.
	if _, err := s.start(source.silent, "run", "--name", "destination", "--incoming",
		"tcp:127.0.0.1:0"); err != nil {
		return err
	}
	before, err := s.beats("source", 0, beatsBefore)
	if err != nil {
		return err
	}
	report, err := s.migrate()
	if err != nil {
		return err
	}
	if err := source.wait(); err != nil {
		return fmt.Errorf("the source did not end well: %w", err)
	}
	say("\nThe source has ended. The guest carries on at the destination:\n")
	// All of the source's output is in. The next heartbeat is the first one that saw the downtime.
	after, err := s.beats("destination", len(s.guest.Beats()), beatsAfter)
	if err != nil {
		return err
	}
	return table(report, before[beatsBefore-1].Gap, after[0].Gap)
}

func say(format string, args ...any) { fmt.Printf(format+"\n", args...) }

// vmmRun is a process of vmm run.
type vmmRun struct {
	silent chan struct{} // closed once its guest prints nothing any more
	done   chan struct{} // closed once it has ended
	err    error         // how
}

// start starts a vmm run, which ends with the context or with this process. Its guest's output is
// read once after is closed.
func (s *stage) start(after <-chan struct{}, args ...string) (*vmmRun, error) {
	say("$ vmm %s", quote(args))
	cmd := exec.CommandContext(s.ctx, s.vmm, args...)
	cmd.Stderr = os.Stderr
	// A group of its own, because only this program acts on Ctrl-C.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w: build it first (make build)", s.vmm, err)
	}
	p := &vmmRun{silent: make(chan struct{}), done: make(chan struct{})}
	s.children.Go(func() {
		select {
		case <-after:
		case <-s.ctx.Done():
		}
		_, errOut := io.Copy(&s.guest, out)
		close(p.silent)
		p.err = errors.Join(cmd.Wait(), errOut)
		close(p.done)
	})
	return p, nil
}

func quote(args []string) string {
	out := make([]string, len(args))
	for i, a := range args {
		if strings.Contains(a, " ") {
			a = strconv.Quote(a)
		}
		out[i] = a
	}
	return strings.Join(out, " ")
}

func (p *vmmRun) wait() error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(patience):
		return fmt.Errorf("still there after %v", patience)
	}
}

// beats shows n of the guest's heartbeats, from number first on, and returns them.
func (s *stage) beats(where string, first, n int) ([]heartbeat.Beat, error) {
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	for i := first; i < first+n; i++ {
		all, err := s.guest.WaitBeats(ctx, i)
		if err != nil {
			return nil, err
		}
		b := all[i]
		say("  %-11s | ms=%d passes=%d writes=%d gap_us=%d", where, b.Elapsed.Milliseconds(),
			b.Passes, b.Writes, b.Gap.Microseconds())
	}
	if line := s.guest.Corrupt(); line != "" {
		return nil, fmt.Errorf("the guest says: %s", line)
	}
	return s.guest.Beats()[first : first+n], nil
}

// migrate moves the guest and shows the rounds as they complete.
func (s *stage) migrate() (migration.Report, error) {
	var none migration.Report
	to, err := s.address()
	if err != nil {
		return none, err
	}
	source, err := control.NewClient("source")
	if err != nil {
		return none, err
	}
	defer source.Close()
	say("\n$ vmm migrate source %s --bandwidth 1Gbit --downtime-limit %v --verify", to,
		downtimeLimit)
	progress := show.NewPlain(os.Stdout)
	if process.IsTerminal(os.Stdout) {
		progress = show.NewLive(os.Stdout)
	}
	report, err := source.Migrate(s.ctx, migration.Params{
		Destination: to, BitsPerSecond: bandwidth, DowntimeLimit: downtimeLimit, Verify: true,
	}, progress.Event)
	progress.Close()
	if err != nil {
		return none, err
	}
	if report.Status != migration.StatusCompleted {
		return none, fmt.Errorf("migration %s: %s", report.Status, report.Error)
	}
	return report, nil
}

// address waits until the destination listens.
func (s *stage) address() (string, error) {
	client, err := control.NewClient("destination")
	if err != nil {
		return "", err
	}
	defer client.Close()
	for end := time.Now().Add(patience); time.Now().Before(end) &&
		s.ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if vm, err := client.VM(s.ctx); err == nil && vm.Incoming != "" {
			return vm.Incoming, nil
		}
	}
	return "", errors.New("the destination does not listen")
}

func table(r migration.Report, gapBefore, gapAfter time.Duration) error {
	if r.Verified == nil || !*r.Verified {
		return errors.New("the memory was not verified")
	}
	row := func(what, format string, args ...any) {
		text.Hanging(os.Stdout, fmt.Sprintf("  %-30s ", what), fmt.Sprintf(format, args...))
	}
	ms := func(d time.Duration) string {
		return units.Milliseconds(float64(d) / float64(time.Millisecond))
	}
	say("")
	row("rounds", "%d, the last with the guest paused", r.RoundCount())
	row("pages", "%s sent with content, %s as zero, %s while paused",
		show.Count(r.PagesSent), show.Count(r.PagesZero), show.Count(r.PagesStopCopy))
	row("bytes on the wire", "%s", units.Bytes(r.BytesWire))
	row("total time", "%s, of it %s waiting for the gate", units.Milliseconds(r.TotalMS),
		units.Milliseconds(r.WaitedMS))
	row("downtime", "%s, of it %s to load and verify", units.Milliseconds(r.DowntimeMS),
		units.Milliseconds(r.Downtime.LoadMS+r.Downtime.VerifyMS))
	row("longest gap that the guest saw", "%s (in a second before: %s)", ms(gapAfter),
		ms(gapBefore))
	row("memory and state verified",
		"yes: equal on both sides, and no page was corrupt to the guest itself")
	return nil
}
