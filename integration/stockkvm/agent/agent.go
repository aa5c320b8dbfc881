// Package agent is process 1 of the emulated stock-KVM host. The initramfs starts it once the
// modules are loaded; it says hello on the control port and then runs what the rig asks for, until
// the rig ends the machine.
//
// It never ends on purpose: the end of process 1 is a kernel panic, by which the rig learns that
// the inner machine broke.
package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/bobuhiro11/gokvm/kvm"
	"golang.org/x/sys/unix"

	"taskguide/integration/stockkvm/wire"
)

// Name is the last element of the program's path in the host. The program stockkvm acts as the
// agent under this name, so that the rig is a single static file.
const Name = "agent"

// Serve serves the rig. It returns only when it can no longer serve, with the reason.
func Serve() error {
	port, err := openPort(wire.PortName)
	if err != nil {
		return err
	}
	go dumpOnSignal()
	awaitTSC()
	a := &agent{events: wire.NewWriter[wire.Message](port), jobs: map[int]*job{}}
	if err := a.events.Write(wire.Message{Hello: hello()}); err != nil {
		return err
	}
	requests := wire.NewReader[wire.Request](port)
	for {
		req, err := requests.Read()
		if err != nil {
			return fmt.Errorf("control port: %w", err)
		}
		if err := a.handle(req); err != nil {
			return err
		}
	}
}

// dumpOnSignal writes the agent's goroutines to the console at each SIGUSR1, for whoever looks for
// the cause of a hang.
func dumpOnSignal() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1)
	for range asked {
		_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
	}
}

// openPort finds a virtio-serial port by its name. The order of probing numbers the device nodes,
// and nothing guarantees that order.
func openPort(name string) (*os.File, error) {
	const class = "/sys/class/virtio-ports"
	deadline := time.Now().Add(10 * time.Second)
	for {
		ports, _ := filepath.Glob(class + "/*/name")
		for _, p := range ports {
			if got, err := os.ReadFile(p); err == nil && strings.TrimSpace(string(got)) == name {
				return os.OpenFile("/dev/"+filepath.Base(filepath.Dir(p)), os.O_RDWR, 0)
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no virtio-serial port named %s in %s", name, class)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func hello() *wire.Hello {
	var uts unix.Utsname
	h := &wire.Hello{CPUs: runtime.NumCPU()}
	if unix.Uname(&uts) == nil {
		h.Kernel = unix.ByteSliceToString(uts.Release[:])
	}
	if info, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(info)) {
			if name, value, ok := strings.Cut(line, ":"); ok &&
				strings.TrimSpace(name) == "model name" {
				h.CPU = strings.TrimSpace(value)
				break
			}
		}
	}
	if f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0); err == nil {
		defer f.Close()
		h.LoadedKHz, h.TSCKHz = tscKHz(f.Fd())
		for _, m := range []string{"kvm_amd", "kvm_intel", "kvm"} {
			if _, err := os.Stat("/sys/module/" + m); err == nil {
				h.KVM = m
				break
			}
		}
	}
	return h
}

// awaitTSC waits until the kernel has measured its TSC, which it does a second or more after it has
// booted with a first guess. Until then, KVM would tell the guess. A kernel that does not take the
// TSC for its clock keeps the guess.
func awaitTSC() {
	const file = "/sys/devices/system/clocksource/clocksource0/current_clocksource"
	for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); {
		if name, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(name)) == "tsc" {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// setTSCKHz is KVM_SET_TSC_KHZ. It takes 0 for the frequency that the kernel has measured.
const setTSCKHz = 0xaea2

// tscKHz asks KVM for the TSC frequency of a new machine: as it is by itself, and after it was told
// to run at the pace of the host's.
func tscKHz(dev uintptr) (loaded, measured int) {
	vm, err := kvm.CreateVM(dev)
	if err != nil {
		return 0, 0
	}
	defer unix.Close(int(vm))
	cpu, err := kvm.CreateVCPU(vm, 0)
	if err != nil {
		return 0, 0
	}
	defer unix.Close(int(cpu))
	before, err := kvm.GetTSCKHz(cpu)
	if err != nil {
		return 0, 0
	}
	if _, err := kvm.Ioctl(cpu, setTSCKHz, 0); err != nil {
		return int(before), 0
	}
	after, err := kvm.GetTSCKHz(cpu)
	if err != nil {
		return int(before), 0
	}
	return int(before), int(after)
}

type agent struct {
	events *wire.Writer[wire.Message]

	mu   sync.Mutex
	jobs map[int]*job
}

type job struct {
	cmd   *exec.Cmd
	stdin io.Writer // nil where its input is empty
}

func (a *agent) handle(req wire.Request) error {
	switch {
	case req.Start != nil:
		return a.start(req.Job, req.Start)
	case req.Signal != 0:
		if j := a.job(req.Job); j != nil {
			// The job leads its own process group, so that the signal also reaches what it started.
			_ = unix.Kill(-j.cmd.Process.Pid, unix.Signal(req.Signal))
		}
		return nil
	case req.Clock != nil:
		return a.clock(req.Job, req.Clock.StepNanos)
	case len(req.Input) > 0:
		if j := a.job(req.Job); j != nil && j.stdin != nil {
			_, _ = j.stdin.Write(req.Input) // a job that stopped reading does not need the input
		}
	}
	return nil
}

func (a *agent) job(id int) *job {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.jobs[id]
}

func (a *agent) clock(id int, stepNanos int64) error {
	now := time.Now().UnixNano()
	if stepNanos != 0 {
		ts := unix.NsecToTimespec(now + stepNanos)
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
			return fmt.Errorf("set the clock: %w", err)
		}
		now = time.Now().UnixNano()
	}
	return a.events.Write(wire.Message{Job: id, Clock: now})
}

// failed reports that a job did not start, and why.
func (a *agent) failed(id int, why string) error {
	return a.events.Write(wire.Message{Job: id, Exit: &wire.Exit{Code: -1, Reason: why}})
}

func (a *agent) start(id int, s *wire.Start) error {
	if len(s.Argv) == 0 {
		return a.failed(id, "no program named")
	}
	cmd := exec.Command(s.Argv[0], s.Argv[1:]...)
	cmd.Env = append(os.Environ(), s.Env...)
	cmd.Dir = s.Dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stdout = output(func(p []byte) error {
		return a.events.Write(wire.Message{Job: id, Out: p})
	})
	cmd.Stderr = output(func(p []byte) error {
		return a.events.Write(wire.Message{Job: id, Err: p})
	})
	// A grandchild that keeps the output open must not keep the job alive. What has not been passed
	// on by then is lost, and a busy machine may take seconds for a line.
	cmd.WaitDelay = 10 * time.Second
	j := &job{cmd: cmd}
	var err error
	if s.Input {
		j.stdin, err = cmd.StdinPipe()
	}
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return a.failed(id, err.Error())
	}
	a.mu.Lock()
	a.jobs[id] = j
	a.mu.Unlock()
	go func() {
		exit := exitOf(cmd.Wait())
		a.mu.Lock()
		delete(a.jobs, id)
		a.mu.Unlock()
		_ = a.events.Write(wire.Message{Job: id, Exit: exit})
	}()
	return nil
}

func exitOf(err error) *wire.Exit {
	var exited *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return &wire.Exit{}
	case errors.As(err, &exited) && exited.Exited():
		return &wire.Exit{Code: exited.ExitCode()}
	case errors.As(err, &exited):
		signal := exited.Sys().(syscall.WaitStatus).Signal()
		return &wire.Exit{Code: -1, Signal: int(signal), Reason: err.Error()}
	default:
		return &wire.Exit{Code: -1, Reason: err.Error()}
	}
}

// output is a writer that sends its input in pieces well below wire.MaxLine.
type output func(p []byte) error

func (o output) Write(p []byte) (int, error) {
	const piece = 64 << 10
	for sent := 0; sent < len(p); {
		n := min(piece, len(p)-sent)
		if err := o(p[sent : sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}
