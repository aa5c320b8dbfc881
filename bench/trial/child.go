package trial

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// child is a vmm run, at this host or at another.
type child interface {
	// kill ends it with its guest.
	kill()
	// wait waits for its end. It is called once.
	wait() Ending
	// cpuSeconds is its processor time so far. It is an error once it has ended.
	cpuSeconds() (float64, error)
	// meterGuest begins to measure the processor time of its vCPUs. stop returns it, in seconds.
	meterGuest() (stop func() float64, err error)
}

// Ending is how a vmm run ended.
type Ending struct {
	Status     int    // 0 if all was well
	State      string // for people
	Stderr     string
	CPUSeconds float64 // in all
}

// localChild is a vmm run at this host.
type localChild struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer // complete once wait has returned
}

// startLocal starts a program whose standard output is out, which it closes here. The run's name
// and socket are in dir.
func startLocal(binary, dir string, side Side, out *os.File, args []string) (*localChild, error) {
	c := &localChild{cmd: exec.Command(binary, args...)}
	c.cmd.Env = append(os.Environ(), "VMM_RUNTIME_DIR="+dir)
	c.cmd.Stdout, c.cmd.Stderr = out, &c.stderr
	// A group of its own, so that only the bench acts on Ctrl-C. Pdeathsig, so that no process
	// outlives the bench.
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	defer out.Close()
	return c, side.do(c.cmd.Start)
}

func (c *localChild) kill() { _ = c.cmd.Process.Kill() }

func (c *localChild) wait() Ending {
	_ = c.cmd.Wait() // its state says it
	state := c.cmd.ProcessState
	return Ending{
		Status: state.ExitCode(), State: state.String(),
		Stderr:     strings.TrimSpace(c.stderr.String()),
		CPUSeconds: (state.UserTime() + state.SystemTime()).Seconds(),
	}
}

func (c *localChild) cpuSeconds() (float64, error) { return cpuSeconds(c.cmd.Process.Pid) }

func (c *localChild) meterGuest() (stop func() float64, err error) {
	m, err := newGuestMeter(c.cmd.Process.Pid)
	if err != nil {
		return nil, err
	}
	return m.stop, nil
}

// remoteChild is a vmm run at another host.
type remoteChild struct {
	host *Host
	pid  int
}

// startRemote starts a vmm run by the hand at a host. Its standard output goes to out, which is
// closed at its end.
func startRemote(h *Host, dir, name string, out *os.File, args []string) (*remoteChild, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	order := StartOrder{Dir: filepath.Base(dir), Name: name, Args: args}
	c := &remoteChild{host: h}
	if err := h.call(ctx, "Start", order, &c.pid); err != nil {
		out.Close()
		return nil, err
	}
	console, err := h.Conn.Dial(order.console())
	if err != nil {
		out.Close()
		c.kill()
		return nil, fmt.Errorf("hear what %s prints at %v: %w", name, h.Conn.Target, err)
	}
	go func() {
		_, _ = io.Copy(out, console) // until its end
		out.Close()
		console.Close()
	}()
	return c, nil
}

func (c *remoteChild) kill() { _ = c.call("Kill", c.pid, &struct{}{}) } // or its host has gone

func (c *remoteChild) wait() Ending {
	var e Ending
	if err := c.host.call(context.Background(), "Wait", c.pid, &e); err != nil {
		return Ending{Status: -1, State: err.Error()}
	}
	return e
}

func (c *remoteChild) cpuSeconds() (s float64, err error) {
	err = c.call("CPUSeconds", c.pid, &s)
	return s, err
}

func (c *remoteChild) meterGuest() (stop func() float64, err error) {
	if err := c.call("Meter", c.pid, &struct{}{}); err != nil {
		return nil, err
	}
	return func() float64 {
		s := float64(Unknown)
		_ = c.call("Metered", c.pid, &s) // it stays unknown
		return s
	}, nil
}

// callPatience is how long a host may take for an answer that needs no waiting.
const callPatience = 30 * time.Second

func (c *remoteChild) call(method string, args, reply any) error {
	ctx, cancel := context.WithTimeout(context.Background(), callPatience)
	defer cancel()
	return c.host.call(ctx, method, args, reply)
}
