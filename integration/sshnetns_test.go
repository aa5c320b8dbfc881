//go:build sshnetns

package integration

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench"
	"taskguide/bench/trial"
	"taskguide/migration"
)

// namespacesScript makes the two hosts, and runs vmm bench between them.
const namespacesScript = "sshnetns.sh"

// namespacesExperiment is an unguided move and a guided one.
const namespacesExperiment = `title: between two network namespaces
guests:
  - name: phased
    cmdline: workload=phased ws=8M hot=256K
    memory: 64M
    busy: 1s
    cool: 1s
guidance: ["off", switchover]
rates: [1Gbit]
repetitions: 1
limit: 5m
`

// namespacesTools are the programs that the script runs, and the Debian packages that have them.
var namespacesTools = [][2]string{
	{"unshare", "util-linux"}, {"nsenter", "util-linux"}, {"mount", "mount"}, {"ip", "iproute2"},
	{"ssh", "openssh-client"}, {"ssh-keygen", "openssh-client"},
}

// sshdVariable is the environment variable that names another sshd than the installed one.
const sshdVariable = "SSHD"

// The hosts share one clock. What the bench measures between them is off by no more than it says,
// and by what reading a clock may take.
const (
	mostWithinMS = 100 // far longer than a round trip within a machine
	clockSlackMS = 1
)

// networkInterface is what ip tells of one, with the bytes that it has carried.
type networkInterface struct {
	Name  string `json:"ifname"`
	Stats struct {
		Rx, Tx struct{ Bytes int64 }
	} `json:"stats64"`
}

// TestBenchOverSSHInNamespaces: an experiment of a file moves guests by ssh between two network
// namespaces of this machine, with its KVM. Guests go over the link between the two, their clocks
// are found to be one, and nothing stays.
func TestBenchOverSSHInNamespaces(t *testing.T) {
	sshd := requireNamespacesTools(t)
	b := newBox(t)
	b.benchInNamespaces(sshd)

	run, results, err := bench.Load(b.path("out"))
	require.NoError(t, err)
	require.NotNil(t, run.Hosts)
	require.Equal(t, "ssh:a", run.Hosts.Source.SSH)
	require.Equal(t, "ssh:b", run.Hosts.Destination.SSH)
	require.False(t, run.Hosts.Insecure)
	requireOneClock(t, &run.Hosts.Clocks)
	require.Len(t, results, run.Trials)
	var guidance []migration.Guidance
	sent, least := int64(0), int64(math.MaxInt64)
	for _, r := range results {
		require.Empty(t, r.Error, r.Spec.ID)
		require.Equal(t, migration.StatusCompleted, r.Report.Status, r.Spec.ID)
		require.Positive(t, r.Report.DowntimeMS, r.Spec.ID)
		require.Positive(t, r.Report.BytesWire, r.Spec.ID)
		requireOneClock(t, r.Clocks)
		guidance = append(guidance, r.Report.Guidance)
		sent, least = sent+r.Report.BytesWire, min(least, r.Report.BytesWire)
		t.Logf("%s: downtime %.1f ms, %d bytes, clocks %+v", r.Spec.ID, r.Report.DowntimeMS,
			r.Report.BytesWire, *r.Clocks)
	}
	require.ElementsMatch(t,
		[]migration.Guidance{migration.GuidanceOff, migration.GuidanceSwitchover}, guidance)

	atA, atB := b.interfaces("a"), b.interfaces("b")
	left, arrived := atA["to-b"].Stats.Tx.Bytes, atB["to-a"].Stats.Rx.Bytes
	t.Logf("guests: %d bytes; the link between a and b: %d left, %d arrived", sent, left, arrived)
	require.GreaterOrEqual(t, left, sent, "the guests did not go over the link")
	require.GreaterOrEqual(t, arrived, sent, "the guests did not go over the link")
	// All of ssh, which copies programs, goes another way: what is there is the guests.
	require.Less(t, left, 2*sent, "the link has carried more than the guests")
	for _, host := range []map[string]networkInterface{atA, atB} {
		require.Contains(t, host, "lo")
		require.Less(t, host["lo"].Stats.Tx.Bytes, least, "a guest went over the loopback")
	}
}

// requireNamespacesTools fails if something is missing here, and returns the path of sshd, which
// refuses to be started by a relative one.
func requireNamespacesTools(t *testing.T) (sshd string) {
	t.Helper()
	require.Zero(t, os.Geteuid(), "network namespaces and sshd take root: run it as root")
	for _, tool := range namespacesTools {
		requireTool(t, tool[0], tool[1])
	}
	if sshd = os.Getenv(sshdVariable); sshd == "" {
		sshd = requireTool(t, "sshd", "openssh-server")
	}
	sshd, err := filepath.Abs(sshd)
	require.NoError(t, err)
	require.FileExists(t, sshd)
	return sshd
}

// requireTool finds a program, also where root's PATH is a user's.
func requireTool(t *testing.T, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path, err = exec.LookPath(filepath.Join("/usr/sbin", name))
	}
	require.NoError(t, err, "no %s: install it (apt-get install %s)", name, debianPackage)
	return path
}

// benchInNamespaces runs the experiment. Nothing of it goes on afterwards, and no file is left but
// the box's own, which go with it, also on Ctrl-C.
func (b *box) benchInNamespaces(sshd string) {
	b.t.Helper()
	require.NoError(b.t, os.WriteFile(b.path("e.yaml"), []byte(namespacesExperiment), 0o644))
	vmm, err := filepath.Abs(vmmBinary)
	require.NoError(b.t, err)
	ctx, stop := signal.NotifyContext(b.ctx, os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sh", namespacesScript, b.dir, vmm, sshd)
	// With the death of this process, unshare dies, and with that all in the namespaces.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = 10 * time.Second
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	runtime.LockOSThread() // the kernel kills the child when the thread that started it ends
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	b.t.Logf("\n%s", out.String())
	require.NoError(b.t, ctx.Err(), "it was interrupted, or takes too long")
	require.NoError(b.t, err)

	require.Empty(b.t, processesOf(b.dir))
	for _, dir := range []string{"tmp", "a/tmp", "b/tmp"} {
		left, err := os.ReadDir(b.path(dir))
		require.NoError(b.t, err)
		require.Empty(b.t, left, dir)
	}
}

// interfaces are a host's, by their names.
func (b *box) interfaces(host string) map[string]networkInterface {
	b.t.Helper()
	text, err := os.ReadFile(b.path(filepath.Join(host, "links.json")))
	require.NoError(b.t, err)
	var list []networkInterface
	require.NoError(b.t, json.Unmarshal(text, &list), "%s", text)
	all := map[string]networkInterface{}
	for _, i := range list {
		all[i.Name] = i
	}
	return all
}

// requireOneClock fails if two hosts on one clock seem to have two.
func requireOneClock(t *testing.T, c *trial.Clocks) {
	t.Helper()
	require.NotNil(t, c)
	require.Positive(t, c.WithinMS)
	require.Less(t, c.WithinMS, float64(mostWithinMS))
	require.LessOrEqual(t, math.Abs(c.AheadMS), c.WithinMS+clockSlackMS, "%+v", *c)
}
