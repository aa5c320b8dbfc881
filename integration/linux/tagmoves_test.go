//go:build stockkvm

package linux

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
	"taskguide/migration"
)

// taggedFiles are the programs that tag in a guest, and vmm-tag.
func taggedFiles(t *testing.T, rig *stockkvm.Rig) []stockkvm.File {
	t.Helper()
	inC := filepath.Join(t.TempDir(), "tagged-c")
	cc := exec.Command("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-static",
		"-I", "../../tagging/include", "-o", inC, "tagged/c/tagged.c")
	out, err := cc.CombinedOutput()
	require.NoError(t, err, "%s", out)
	files := []stockkvm.File{
		{Source: inC, Target: "/bin/tagged-c"},
		{Source: "tagged/script.sh", Target: "/bin/script.sh"},
		{Source: "tagged/stretch.sh", Target: "/bin/stretch.sh"},
	}
	for _, program := range []string{"./cmd/vmm-tag", "./integration/linux/tagged"} {
		path, err := rig.Build(t.Context(), program)
		require.NoError(t, err)
		files = append(files, stockkvm.File{Source: path, Target: "/bin/" + filepath.Base(path)})
	}
	return files
}

// traveller is a guest that moves from process to process of one host.
type traveller struct {
	host  *stockkvm.Host
	at    *machine
	hop   int
	flags []string        // of its devices
	said  strings.Builder // on its console, before the process that it is in
}

// user makes the user without rights that the tests' programs run as.
const user = "mkdir -p /etc /run /tmp; chmod 1777 /tmp; " +
	"echo user:x:1000:1000::/:/bin/sh >/etc/passwd; echo user:x:1000: >/etc/group"

// newTraveller boots a host, and in it a guest that has the files of taggedFiles and a user.
func newTraveller(ctx context.Context, t *testing.T) *traveller {
	t.Helper()
	started := time.Now()
	rig := newRig(t)
	tr := &traveller{host: hostOf(t, rig, taggedFiles(t, rig))}
	requireRun(ctx, t, tr.host, hugePages)
	tr.boot(t, "--memory", "128M", "--cmdline", "console=ttyS0 quiet")
	tr.at.await(ctx, t, prompt)
	tr.at.typed(t, user+"; echo user=$((6*7))")
	tr.at.await(ctx, t, "user=42")
	t.Logf("a guest after %.0f s", time.Since(started).Seconds())
	return tr
}

// boot starts the guest. A test that fails shows what it has printed.
func (tr *traveller) boot(t *testing.T, flags ...string) {
	t.Helper()
	tr.at = run(t, tr.host, append(append(flags, "--name", tr.name(),
		"--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd), tr.flags...)...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(tr.console())
		}
	})
}

func (tr *traveller) name() string { return fmt.Sprintf("vm%d", tr.hop) }

// move moves the guest to a new process, and verifies it. It returns no report of a move that was
// made out of sight, see [ordered].
func (tr *traveller) move(ctx context.Context, t *testing.T, flags ...string) *migration.Report {
	t.Helper()
	from := tr.name()
	tr.hop++
	next := run(t, tr.host, append([]string{
		"--name", tr.name(), "--incoming", "unix:/run/" + tr.name(),
	}, tr.flags...)...)
	awaitUp(ctx, t, tr.host, tr.name())
	said := ordered(ctx, t, tr.host, from, "unix:/run/"+tr.name(), flags...)
	exit, err := tr.at.Wait(ctx)
	require.NoError(t, err)
	require.Zero(t, exit.Code, tr.at.stderr.String())
	tr.said.WriteString(tr.at.console.String())
	tr.at = next
	if said == "" {
		return nil
	}
	report := requireMoved(t, from, said)
	return &report
}

// moveGuided moves the guest when its gate lets it. The report, if there is one, must have one of
// the guidances.
func (tr *traveller) moveGuided(
	ctx context.Context, t *testing.T, guidance ...migration.Guidance,
) migration.Report {
	t.Helper()
	report := tr.move(ctx, t, guided...)
	if report == nil {
		return migration.Report{}
	}
	require.Contains(t, guidance, report.Guidance)
	require.False(t, report.Forced)
	t.Logf("%s; %.0f ms held back", report.SwitchoverReason, report.WaitedMS)
	return *report
}

// console is what the guest has printed so far.
func (tr *traveller) console() string {
	return strings.ReplaceAll(tr.said.String()+tr.at.console.String(), "\r", "")
}

// awaitLine waits until the guest has printed what matches.
func (tr *traveller) awaitLine(ctx context.Context, t *testing.T, what *regexp.Regexp) []string {
	t.Helper()
	for {
		if found := what.FindStringSubmatch(tr.console()); found != nil {
			return found
		}
		require.NoError(t, ctx.Err(), "%s\n%s", what, tr.console())
		time.Sleep(100 * time.Millisecond)
	}
}

// guided are the flags of a move that waits for the gate, however long that takes. A busy host
// sends so little that the usual limit of the downtime would be in the way.
var guided = []string{
	"--guidance", "switchover", "--max-defer", "10m", "--on-timeout", "cancel",
	"--downtime-limit", "5s",
}

// daemon starts vmm-tag's. On a busy machine it may not run for long, so its leases are a minute.
const daemon = "(vmm-tag daemon --group user --lease 300 &); " +
	"until vmm-tag status; do sleep 1; done; echo daemon=$((6*7))"

// TestGuidedMovesHeedSegments: a program in C, one in Go and a shell script with vmm-tag exec, all
// without rights, take part in ten guided moves. None of them sees the machine move while it is
// outside of its segment. Before that, it prints what a tag costs.
func TestGuidedMovesHeedSegments(t *testing.T) {
	const times = 10
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Minute)
	defer cancel()
	tr := newTraveller(ctx, t)
	tr.at.typed(t, daemon)
	tr.at.await(ctx, t, "daemon=42")
	tr.measure(ctx, t)
	tr.at.typed(t, "for p in 'tagged-c in-c' 'tagged task in-go' 'sh /bin/script.sh'; do "+
		"su user -c \"$p\" & done")
	programs := []string{"in-c", "in-go", "script"}
	for _, p := range programs {
		tr.awaitLine(ctx, t, regexp.MustCompile(p+`: tagged `))
	}
	for range times {
		tr.moveGuided(ctx, t, migration.GuidanceSwitchover)
	}
	for _, p := range programs {
		said := tr.awaitLine(ctx, t, regexp.MustCompile(
			p+`: moved epoch=`+strconv.Itoa(times)+` inside=(\d+) outside=(\d+) .*`))
		t.Log(said[0])
		require.Equal(t, strconv.Itoa(times), said[1], "all moves, within its segments")
		require.Equal(t, "0", said[2])
	}
	require.NotContains(t, tr.console(), "FAULT")
	requireRun(ctx, t, tr.host, "vmm stop --now "+tr.name())
}

// measure prints what a tag costs: while no migration goes on, and while one waits, when each tag
// asks the daemon.
func (tr *traveller) measure(ctx context.Context, t *testing.T) {
	t.Helper()
	tr.at.typed(t, "su user -c 'tagged bench; tagged-c bench'; echo quiet=$((6*7))")
	tr.at.await(ctx, t, "quiet=42")
	tr.at.typed(t, "vmm-tag enter holder; vmm-tag exit holder; echo held=$((6*7))")
	tr.at.await(ctx, t, "held=42")
	waits := run(t, tr.host, "--name", "waits", "--incoming", "unix:/run/waits")
	awaitUp(ctx, t, tr.host, "waits")
	order, err := tr.host.Start(stockkvm.Command{Argv: []string{
		"vmm", "migrate", tr.name(), "unix:/run/waits", "--guidance", "start",
		"--max-defer", "1h", "--on-timeout", "cancel",
	}})
	require.NoError(t, err)
	tr.at.typed(t, "su user -c 'tagged ringing; tagged-c ringing'; echo rung=$((6*7))")
	tr.at.await(ctx, t, "rung=42")
	requireRun(ctx, t, tr.host, "vmm cancel "+tr.name())
	exit, err := order.Wait(ctx)
	require.NoError(t, err)
	require.NotZero(t, exit.Code)
	requireRun(ctx, t, tr.host, "vmm stop --now waits || true")
	_, err = waits.Wait(ctx)
	require.NoError(t, err)
	// The shell has the task. Nobody may hold the gate from here on.
	tr.at.typed(t, "vmm-tag enter holder")
	lines := regexp.MustCompile(`bench: [a-z-]+=[0-9.]+ ns`).FindAllString(tr.console(), -1)
	require.Len(t, lines, 12, tr.console())
	t.Log(strings.Join(lines, "\n"))
}
