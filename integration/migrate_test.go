package integration

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/integration/heartbeat"
	"taskguide/migration"
)

// busy is a guest that verifies and rewrites its memory all the time, on two vCPUs.
var busy = []string{"--memory", "64M", "--cpus", "2", "--cmdline", "workload=phased ws=8M hot=1M busy=1s cool=0 fill=random"}

func requireVerified(t *testing.T, r migration.Report) {
	t.Helper()
	require.NotNil(t, r.Verified)
	require.True(t, *r.Verified)
	require.Empty(t, r.Error)
	require.NotEmpty(t, r.SwitchoverReason)
	require.Positive(t, r.DowntimeMS)
	require.Greater(t, r.TotalMS, r.DowntimeMS)
}

func TestMigrate(t *testing.T) {
	for _, addr := range []string{"tcp:127.0.0.1:0", "tcp:[::1]:0", "unix"} {
		t.Run(addr, func(t *testing.T) {
			if addr == "tcp:[::1]:0" {
				requireIPv6(t)
			}
			b := newBed(t)
			if addr == "unix" {
				addr = b.unix("in")
			}
			g := &guest{}
			source := b.run(g, "source", busy...)
			g.alive(b, 2)
			destination, to := b.incoming(g, "destination", addr)
			requireVerified(t, b.migrate("source", to, "--verify"))
			require.Equal(t, 0, source.wait())
			require.Contains(t, source.stderr.String(), "moved to "+to)
			require.NoFileExists(t, b.path("source.sock"))
			destination.awaitState(control.StateRunning)
			require.Equal(t, 2, destination.vm().CPUs, "the source's configuration decides")
			g.alive(b, 4)
		})
	}
}

// requireIPv6 fails the test where a host has no IPv6 loopback only if it says that it has one.
func requireIPv6(t *testing.T) {
	if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
		t.Skip("this kernel has no IPv6")
	}
}

// TestReportFields: scripts count on every field, whatever happened.
func TestReportFields(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	b.run(g, "source", idle...)
	g.alive(b, 1)
	_, to := b.incoming(g, "destination", b.unix("in"))
	out := b.ok("migrate", "source", to, "--json")
	var report map[string]any
	require.NoError(t, json.Unmarshal([]byte(out), &report))
	for _, field := range []string{
		"status", "error", "rule", "guidance", "total_ms", "setup_ms", "downtime_ms", "waited_ms", "suspended_ms", "suspensions",
		"switchover_reason", "ram_bytes", "bytes_wire", "bytes_pages", "pages_sent", "pages_zero", "pages_stopcopy", "verified", "rounds",
	} {
		require.Contains(t, report, field)
	}
	require.Nil(t, report["verified"], "not asked for")
	rounds := report["rounds"].([]any)
	require.NotEmpty(t, rounds)
	for _, field := range []string{
		"n", "phase", "dirty_pages", "sent_pages", "zero_pages", "skipped_pages", "bytes_wire", "ms", "dirty_pages_per_s", "bytes_per_s", "gate_open",
	} {
		require.Contains(t, rounds[0], field)
	}
}

func TestPlainOutput(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	b.run(g, "source", idle...)
	g.alive(b, 1)
	_, to := b.incoming(g, "destination", b.unix("in"))
	out := b.ok("migrate", "source", to, "--verify")
	require.Contains(t, out, "round  dirty pages")
	require.Contains(t, out, " stop ")
	require.Contains(t, out, "completed: the guest runs at "+to)
	require.Contains(t, out, "verified    yes")
	require.NotContains(t, out, "\x1b", "no escape sequences in a pipe")
}

// TestPausedGuestStaysPaused: a machine paused by its user moves and stays paused.
func TestPausedGuestStaysPaused(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 1)
	b.ok("pause", "source")
	destination, to := b.incoming(g, "destination", b.unix("in"))
	requireVerified(t, b.migrate("source", to, "--verify"))
	require.Equal(t, 0, source.wait())
	destination.awaitState(control.StatePaused)
	b.ok("resume", "destination")
	g.alive(b, 4)
}

// TestDestinationFlagsAreIgnored: what a destination says about the machine has no effect, and it says so.
func TestDestinationFlagsAreIgnored(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	b.run(g, "source", idle...)
	g.alive(b, 1)
	destination, to := b.incoming(g, "destination", b.unix("in"), "--memory", "1G", "--cpus", "4")
	b.migrate("source", to)
	destination.awaitState(control.StateRunning)
	vm := destination.vm()
	require.EqualValues(t, 32<<20, vm.MemoryBytes)
	require.Equal(t, 1, vm.CPUs)
	require.Contains(t, destination.stderr.String(), "--memory, --cpus: the guest that arrives brings its own")
}

// slow is a limit at which the guest's memory takes far longer than any test waits.
const slow = "1Mbit"

// TestCancel ends a migration in each of the ways there are; the guest then moves all the same, to the same destination.
func TestCancel(t *testing.T) {
	for name, cancel := range map[string]func(b *bed, migrate *os.Process){
		"vmm cancel": func(b *bed, _ *os.Process) { b.ok("cancel", "source") },
		"Ctrl-C":     func(b *bed, m *os.Process) { require.NoError(b.t, m.Signal(syscall.SIGINT)) },
		"DELETE": func(b *bed, _ *os.Process) {
			c, err := control.NewClient(b.path("source.sock"))
			require.NoError(b.t, err)
			defer c.Close()
			r, err := c.CancelMigration(b.ctx)
			require.NoError(b.t, err)
			require.Equal(b.t, migration.StatusCancelled, r.Status)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			g := &guest{}
			source := b.run(g, "source", busy...)
			g.alive(b, 1)
			_, to := b.incoming(&guest{}, "destination", b.unix("in"))
			cmd, wait := b.background("migrate", "source", to, "--bandwidth", slow)
			source.migrating()
			require.True(t, source.vm().DirtyLogging)
			require.Contains(t, b.refused(1, "migrate", "source", to), "under way")
			require.Contains(t, b.refused(1, "pause", "source"), "under way")

			cancel(b, cmd.Process)
			r := wait()
			require.Equal(t, 1, r.status)
			require.Contains(t, r.stderr, "cancelled")
			require.Contains(t, r.stderr, "the guest still runs here")
			require.Equal(t, 1, strings.Count(r.stderr, "\n"), r.stderr)
			source.untouched()
			require.Contains(t, b.refused(1, "cancel", "source"), "no migration")
			g.alive(b, 2)
			requireVerified(t, b.migrate("source", to, "--verify"))
			require.Equal(t, 0, source.wait())
		})
	}
}

// TestStopDuringMigration: the VM ends, and so does the migration.
func TestStopDuringMigration(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 1)
	destination, to := b.incoming(&guest{}, "destination", b.unix("in"))
	_, wait := b.background("migrate", "source", to, "--bandwidth", slow)
	source.migrating()
	b.ok("stop", "source")
	require.Equal(t, 0, source.wait())
	require.Equal(t, 1, wait().status)
	require.Equal(t, control.StateIncoming, destination.vm().State)
}

// TestGuestEndsDuringMigration: its exit status is the process', and nothing of it is left at the destination.
func TestGuestEndsDuringMigration(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	source := b.run(g, "source", "--memory", "64M", "--cmdline", "workload=idle touch=16M fill=random secs=3")
	g.alive(b, 1)
	destination, to := b.incoming(&guest{}, "destination", b.unix("in"))
	_, wait := b.background("migrate", "source", to, "--bandwidth", slow)
	require.Equal(t, 0, source.wait())
	r := wait()
	require.Equal(t, 1, r.status)
	require.Contains(t, r.stderr, "ended")
	require.Equal(t, control.StateIncoming, destination.vm().State)
}

// TestXenRule: a busy guest never converges; the classic rules end pre-copy all the same, and say which of them did.
func TestXenRule(t *testing.T) {
	b := newBed(t)
	g := &guest{}
	source := b.run(g, "source", busy...)
	g.alive(b, 2)
	_, to := b.incoming(g, "destination", "tcp:127.0.0.1:0")
	r := b.migrate("source", to, "--rule", "xen", "--bandwidth", "1Gbit", "--verify", "--compress", "none")
	requireVerified(t, r)
	require.Equal(t, 0, source.wait())
	require.Equal(t, migration.RuleXen, r.Rule)
	require.LessOrEqual(t, len(r.Rounds), 30, "29 and stop-and-copy")
	require.Greater(t, len(r.Rounds), 2)
	require.Regexp(t, `rounds|RAM|50`, r.SwitchoverReason)
	g.alive(b, 4)
}

// certificates makes a CA and a certificate for localhost, as vmm wants them in a directory.
func certificates(t *testing.T, dir string) string {
	t.Helper()
	newKey := func() *ecdsa.PrivateKey {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		require.NoError(t, err)
		return key
	}
	write := func(name, kind string, der []byte) {
		block := pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
		require.NoError(t, os.WriteFile(dir+"/"+name, block, 0o600))
	}
	require.NoError(t, os.Mkdir(dir, 0o700))
	caKey, key := newKey(), newKey()
	ca := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, ca, ca, &caKey.PublicKey, caKey)
	require.NoError(t, err)
	write("ca.pem", "CERTIFICATE", der)
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "host"}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err = x509.CreateCertificate(rand.Reader, leaf, ca, &key.PublicKey, caKey)
	require.NoError(t, err)
	write("cert.pem", "CERTIFICATE", der)
	der, err = x509.MarshalECPrivateKey(key)
	require.NoError(t, err)
	write("key.pem", "EC PRIVATE KEY", der)
	return dir
}

func TestTLS(t *testing.T) {
	b := newBed(t)
	ours, theirs := certificates(t, b.path("ours")), certificates(t, b.path("theirs"))
	g := &guest{}
	source := b.run(g, "source", idle...)
	g.alive(b, 1)
	destination, to := b.incoming(g, "destination", "tcp:127.0.0.1:0", "--tls-dir", ours)
	for _, args := range [][]string{
		nil,                    // without TLS
		{"--tls-dir", theirs},  // by another CA
		{"--tls-dir", b.dir},   // no certificates
		{"--tls-dir", "/none"}, // no directory
	} {
		b.refused(1, append([]string{"migrate", "source", to}, args...)...)
		source.untouched()
		require.Equal(t, control.StateIncoming, destination.vm().State)
	}
	plain, toPlain := b.incoming(&guest{}, "plain", "tcp:127.0.0.1:0")
	b.refused(1, "migrate", "source", toPlain, "--tls-dir", ours)
	source.untouched()
	require.Equal(t, control.StateIncoming, plain.vm().State)

	requireVerified(t, b.migrate("source", to, "--tls-dir", ours, "--verify", "--channels", "3"))
	require.Equal(t, 0, source.wait())
	g.alive(b, 2)
}

// TestBackAndForth moves one guest many times, busy all the time on two vCPUs, each move verified; its own counters never go
// backwards, and it finds all its memory as it left it.
func TestBackAndForth(t *testing.T) {
	b := newBed(t)
	moves := moves
	if os.Getenv("TASKGUIDE_LONG") != "" {
		moves *= 10
	}
	g := &guest{}
	here := b.run(g, "host-0", busy...)
	g.alive(b, 1)
	for i := range moves {
		there, to := b.incoming(g, fmt.Sprintf("host-%d", i+1), []string{"tcp:127.0.0.1:0", b.unix("in")}[i%2])
		r := b.migrate(here.name, to, "--verify", "--max-rounds", "3")
		requireVerified(t, r)
		require.Equal(t, 0, here.wait(), "%s", here.stderr)
		require.Empty(t, g.Corrupt())
		here = there
	}
	g.alive(b, 4)
	requireMonotonic(t, g.Beats(), 2)
}

// requireMonotonic says that the guest's counters never went backwards, for each of its tasks.
func requireMonotonic(t *testing.T, beats []heartbeat.Beat, tasks int) {
	t.Helper()
	last := map[int]heartbeat.Beat{}
	for _, beat := range beats {
		if before, ok := last[beat.Task]; ok {
			require.Greater(t, beat.Elapsed, before.Elapsed)
			require.GreaterOrEqual(t, beat.Passes, before.Passes)
			require.GreaterOrEqual(t, beat.Writes, before.Writes)
		}
		last[beat.Task] = beat
	}
	require.Len(t, last, tasks)
	for _, beat := range last {
		require.Positive(t, beat.Writes)
	}
}
