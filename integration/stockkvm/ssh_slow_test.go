//go:build stockkvm

package stockkvm

import (
	"context"
	"encoding/json"
	"math"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel/heartbeat"
)

// sshExperiment is one that takes little time under emulation.
const sshExperiment = `title: between two hosts
guests:
  - name: phased
    cmdline: workload=phased ws=2M hot=64K dots=50ms
    memory: 32M
    busy: 2s
    cool: 2s
rates: [100Mbit]
repetitions: 2
limit: 10m
`

// clockStep is how far host b's clock is set ahead.
const clockStep = 40 * time.Millisecond

// sshRun is what the test reads of run.json.
type sshRun struct {
	Trials int
	Hosts  struct {
		Source, Destination struct {
			SSH string
			KVM string
			VMM string
		}
		Clocks sshClocks
	}
}

type sshClocks struct {
	Ahead  float64 `json:"ahead_ms"`
	Within float64 `json:"within_ms"`
}

// sshTrial is what the test reads of a line of raw.jsonl.
type sshTrial struct {
	Error  string
	Clocks sshClocks
	Report struct{ Status string }
}

// benchPair is a pair of hosts that know ssh. Only host a has the bench, and b has no vmm.
type benchPair struct {
	*Pair
	t *testing.T
}

func startBenchPair(t *testing.T) benchPair {
	t.Helper()
	rig, err := NewRig(t.Context(), t.TempDir())
	require.NoError(t, err)
	both := append(openSSH(t), PairHosts())
	files := append(both[:len(both):len(both)], Content("/e.yaml", 0o644, []byte(sshExperiment)))
	for _, program := range []string{"vmm", "vmm-bench"} {
		built, err := rig.Build(t.Context(), "./cmd/"+program)
		require.NoError(t, err)
		files = append(files, File{Source: built, Target: "/bin/" + program})
	}
	a, err := rig.Initramfs("ssh-a", files)
	require.NoError(t, err)
	b, err := rig.Initramfs("ssh-b", both)
	require.NoError(t, err)
	pair, err := rig.StartPair(t.Context(), b, func(host int, cfg *HostConfig) {
		if host == 0 {
			cfg.Initramfs = a
		}
	})
	require.NoError(t, err)
	t.Cleanup(pair.Close)
	p := benchPair{pair, t}
	t.Cleanup(p.explain)
	for host := range p.Hosts {
		p.ok(host, "chmod 600 /etc/ssh/*_key && /bin/sshd")
	}
	return p
}

// explain logs, after a failure, what runs on the hosts.
func (p benchPair) explain() {
	if !p.t.Failed() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for host, h := range p.Hosts {
		out, err := h.Run(ctx, "sh", "-c", "ps; ls -lR /tmp; netstat -tn; dmesg | tail -n 5")
		p.t.Logf("host %s: %v\n%s%s", PairNames[host], err, out.Stdout, out.Stderr)
	}
}

// ok runs a line for a host's shell, and returns its output.
func (p benchPair) ok(host int, line string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), stepPatience)
	defer cancel()
	out, err := p.Hosts[host].Run(ctx, "sh", "-c", line)
	require.NoError(p.t, err)
	require.Zero(p.t, out.Exit.Status(), "%s: %s%s", line, out.Stdout, out.Stderr)
	return strings.TrimSpace(out.Stdout)
}

// bench starts the experiment on host a.
func (p benchPair) bench(out string, stdout, stderr *heartbeat.Log, more ...string) *Job {
	p.t.Helper()
	argv := []string{
		"vmm", "bench", "custom", "/e.yaml", "--source", "ssh:a", "--destination", "ssh:b",
		"--out", out,
	}
	job, err := p.Hosts[0].Start(Command{
		Argv: append(argv, more...), Stdout: stdout, Stderr: stderr,
	})
	require.NoError(p.t, err)
	return job
}

// left says what the bench has left on a host. The controller is on host a.
const left = `pidof vmm vmm-bench; ls -d /tmp/vmm-bench[.-]* 2>/dev/null; true`

// leftByAgents is the same, without the temporary folders of a controller, which a killed one does
// not remove.
const leftByAgents = `pidof vmm vmm-bench; ls -d /tmp/vmm-bench.* 2>/dev/null; true`

// requireNothing fails if the bench has left something on a host.
func (p benchPair) requireNothing() {
	p.t.Helper()
	for host := range p.Hosts {
		require.Empty(p.t, p.ok(host, left), PairNames[host])
	}
}

// awaitNothing waits until nothing of the agents and their guests is left on a host.
func (p benchPair) awaitNothing(host int) {
	p.t.Helper()
	p.until(host, "! { "+leftByAgents+"; } | grep -q .")
}

// until waits for a line of the shell to succeed.
func (p benchPair) until(host int, line string) {
	p.t.Helper()
	p.ok(host, "until "+line+"; do sleep 0.2; done")
}

// awaitTrial starts the experiment, and waits until a guest has started and is awaited.
func (p benchPair) awaitTrial(out string) (*Job, *heartbeat.Log) {
	p.t.Helper()
	var stdout, stderr heartbeat.Log
	job := p.bench(out, &stdout, &stderr)
	for host := range p.Hosts {
		p.until(host, "pidof vmm >/dev/null")
	}
	return job, &stderr
}

// TestBenchOverSSH: an experiment of a file moves guests between two hosts, whose clocks differ. It
// leaves nothing behind, however it ends.
func TestBenchOverSSH(t *testing.T) {
	p := startBenchPair(t)
	ctx, cancel := context.WithTimeout(t.Context(), 25*time.Minute)
	defer cancel()
	apart, err := p.SetClocks(ctx)
	require.NoError(t, err)
	_, _, err = p.Hosts[1].clock(ctx, clockStep)
	require.NoError(t, err)

	for _, end := range []struct {
		name string
		run  func(ctx context.Context, p benchPair)
	}{
		{"whole", func(ctx context.Context, p benchPair) { p.runWhole(ctx, apart) }},
		{"Ctrl-C", interrupted}, {"killed", killed}, {"network gone", cutOff},
	} {
		ok := t.Run(end.name, func(t *testing.T) { end.run(ctx, benchPair{p.Pair, t}) })
		require.True(t, ok)
	}
}

// interrupted presses Ctrl-C in the middle of a trial.
func interrupted(ctx context.Context, p benchPair) {
	job, stderr := p.awaitTrial("/out-int")
	require.NoError(p.t, job.Signal(syscall.SIGINT))
	exit, err := job.Wait(ctx)
	require.NoError(p.t, err)
	require.Equal(p.t, 1, exit.Code, stderr.String())
	require.Contains(p.t, stderr.String(), "--resume")
	p.requireNothing()
}

// killed kills the bench, and not the agent on the same host.
func killed(ctx context.Context, p benchPair) {
	job, _ := p.awaitTrial("/out-kill")
	p.ok(0, `for p in $(pidof vmm-bench); do tr '\0' ' ' </proc/$p/cmdline | grep -q custom && `+
		`kill -9 $p; done; true`)
	_, err := job.Wait(ctx)
	require.NoError(p.t, err)
	p.awaitNothing(0)
	p.awaitNothing(1)
}

// cutOff takes the network away.
func cutOff(ctx context.Context, p benchPair) {
	job, stderr := p.awaitTrial("/out-net")
	p.ok(0, "ip link set eth0 down")
	p.awaitNothing(1)
	exit, err := job.Wait(ctx)
	require.NoError(p.t, err)
	require.Equal(p.t, 1, exit.Code, stderr.String())
	p.awaitNothing(0)
}

// wholePatience is how long the experiment may take.
const wholePatience = 10 * time.Minute

// mostResumed is how often void trials are tried again. On a busy machine, a slow host may not load
// a guest's state within the engine's limit of 3 s.
const mostResumed = 3

// runWhole runs the experiment to its end.
func (p benchPair) runWhole(ctx context.Context, apart time.Duration) {
	t := p.t
	for n := 0; ; n++ {
		more := []string{"--seed", "1"}
		if n > 0 {
			more = []string{"--resume"}
		}
		p.runOnce(ctx, more...)
		p.requireNothing()
		if text := p.ok(0, "cat /out/report.txt"); !strings.Contains(text, "* void: ") {
			break
		}
		require.Less(t, n, mostResumed, "trials are void again and again")
	}
	var run sshRun
	text := p.ok(0, "cat /out/run.json")
	t.Log(text)
	require.NoError(t, json.Unmarshal([]byte(text), &run))
	require.Equal(t, 4, run.Trials)
	require.Equal(t, "ssh:a", run.Hosts.Source.SSH)
	require.Equal(t, "ssh:b", run.Hosts.Destination.SSH)
	require.Equal(t, "amd", run.Hosts.Destination.KVM)
	require.Equal(t, run.Hosts.Source.VMM, run.Hosts.Destination.VMM)
	requireAhead(t, run.Hosts.Clocks, apart)
	trials := 0
	for line := range strings.Lines(p.ok(0, "cat /out/raw.jsonl")) {
		var r sshTrial
		require.NoError(t, json.Unmarshal([]byte(line), &r))
		requireAhead(t, r.Clocks, apart)
		if r.Error != "" {
			continue // it was tried again
		}
		require.Equal(t, "completed", r.Report.Status)
		trials++
	}
	require.Equal(t, 4, trials)
	require.Contains(t, p.ok(0, "cat /out/report.txt"), "CLOCKS")
}

// runOnce runs the experiment, or goes on with it.
func (p benchPair) runOnce(ctx context.Context, more ...string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(ctx, wholePatience)
	defer cancel()
	var stdout, stderr heartbeat.Log
	exit, err := p.bench("/out", &stdout, &stderr, more...).Wait(ctx)
	p.t.Logf("\n%s%s", stdout.String(), stderr.String())
	require.NoError(p.t, err)
	require.Zero(p.t, exit.Status())
}

// requireAhead holds a measured difference to what the test has set, within what both may be off.
func requireAhead(t *testing.T, c sshClocks, apart time.Duration) {
	t.Helper()
	step, slack := clockStep.Seconds()*1000, apart.Seconds()*1000
	require.Positive(t, c.Within)
	require.LessOrEqual(t, math.Abs(c.Ahead-step), c.Within+slack+clockStepSlackMS, "%+v", c)
}

// clockStepSlackMS is what the step itself may be off.
const clockStepSlackMS = 5
