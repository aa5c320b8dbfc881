package trial

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/remote"
	"taskguide/guestkernel/heartbeat"
	"taskguide/migration"
)

// handWord makes the test binary an agent.
const handWord = "hand-of-the-tests"

// serveHand is what the agent does.
func serveHand(dir string) error {
	hand := NewHand(dir)
	defer hand.Close()
	return remote.Serve(os.Stdin, os.Stdout, dir, map[string]any{HandName: hand})
}

// fakeVMM stands in for vmm at the other host: it prints its arguments, and goes on until it is
// told to end by a file, or killed.
const fakeVMM = `#!/bin/sh
echo "$@ in $VMM_RUNTIME_DIR"
until [ -e "$VMM_RUNTIME_DIR/end" ]; do sleep 0.05; done
echo "its last words" >&2
exit 3
`

// fakeHosts connects with two agents by an ssh that runs its command here. It returns the folder in
// which agents have theirs.
func fakeHosts(t *testing.T) (hosts *Hosts, folders string) {
	t.Helper()
	bin, folders := t.TempDir(), t.TempDir()
	ssh := "#!/bin/sh\nshift 10\nexec sh -c \"$1\"\n"
	require.NoError(t, os.WriteFile(filepath.Join(bin, "ssh"), []byte(ssh), 0o755))
	vmm := filepath.Join(bin, "fake")
	require.NoError(t, os.WriteFile(vmm, []byte(fakeVMM), 0o755))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	t.Setenv("TMPDIR", folders)
	hosts = &Hosts{}
	for name, at := range map[string]**Host{"a": &hosts.Source, "fd00::2": &hosts.Destination} {
		conn, err := remote.Connect(t.Context(), remote.Target{Host: name, Address: name}, handWord)
		require.NoError(t, err)
		t.Cleanup(conn.Close)
		_, err = conn.Put(VMMFile, vmm)
		require.NoError(t, err)
		*at = &Host{Conn: conn}
	}
	return hosts, folders
}

// TestProcessAtAnotherHost: a vmm run there is started, heard, measured and ended as one here.
func TestProcessAtAnotherHost(t *testing.T) {
	hosts, folders := fakeHosts(t)
	at := &Site{Hosts: hosts}
	// Not below TMPDIR, which is what the hosts have.
	dir := filepath.Join(t.TempDir(), "trial")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, hosts.makeFolders(t.Context(), dir))

	var log heartbeat.Log
	now := make(chan struct{})
	close(now)
	p, err := startVMM("", dir, "source", at.source(), &log, now, "--cpus", "1")
	require.NoError(t, err)
	there := filepath.Join(hosts.Source.Conn.Dir, "trial")
	want := "run --name source --api " + there + "/source.sock --cpus 1 in " + there
	require.NoError(t, log.WaitText(t.Context(), want))
	_, err = p.used()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(there, "end"), nil, 0o600))
	require.ErrorContains(t, p.succeed(t.Context()),
		"source has ended (exit status 3) its last words: it was to end with status 0")
	used, err := p.used()
	require.NoError(t, err)
	require.Equal(t, p.ending.CPUSeconds, used)
	p.end()

	p, err = startVMM("", dir, "destination", at.destination(), &log, now)
	require.NoError(t, err)
	p.end()
	<-p.done
	require.Equal(t, "signal: killed", p.ending.State)

	hosts.removeFolders(dir)
	require.NoDirExists(t, there)
	p, err = startVMM("", dir, "late", at.source(), &log, now)
	require.Error(t, err, "its folder is gone: %v", p)
	for _, h := range hosts.both() {
		h.Conn.Close()
	}
	left, err := os.ReadDir(folders)
	require.NoError(t, err)
	require.Empty(t, left)
}

// TestEndOfAnAgent: what it started ends with it, and a trial learns of that.
func TestEndOfAnAgent(t *testing.T) {
	hosts, _ := fakeHosts(t)
	dir := filepath.Join(t.TempDir(), "trial")
	require.NoError(t, os.Mkdir(dir, 0o700))
	require.NoError(t, hosts.makeFolders(t.Context(), dir))
	var log heartbeat.Log
	now := make(chan struct{})
	close(now)
	p, err := startVMM("", dir, "source", (&Site{Hosts: hosts}).source(), &log, now)
	require.NoError(t, err)
	require.NoError(t, log.WaitText(t.Context(), "run --name source"))
	hosts.Source.Conn.Close()
	<-p.done
	require.Error(t, p.succeed(t.Context()))
	p.end()
}

// TestHostsListen: what counts is the host with more to do.
func TestHostsListen(t *testing.T) {
	hosts, _ := fakeHosts(t)
	var before Noise
	heard := hosts.listen(t.Context(), &before)
	require.Positive(t, before.Load1+before.BusyCPUs)
	time.Sleep(10 * time.Millisecond) // there is something to measure
	during := heard()
	require.GreaterOrEqual(t, during.OthersPeakCPUs, during.OthersCPUs)

	n := Noise{Load1: 1, BusyCPUs: 2}
	n.worse(Noise{Load1: 3, BusyCPUs: 1, StolenCPUs: 4})
	require.Equal(t, Noise{Load1: 3, BusyCPUs: 2, StolenCPUs: 4}, n)
	d := NoiseDuring{OthersCPUs: 1, StolenPeakCPUs: 1}
	d.worse(NoiseDuring{OthersPeakCPUs: 2, StolenCPUs: 3})
	require.Equal(t, NoiseDuring{1, 2, 3, 1}, d)
}

// TestClocksOfHosts: both are this host, so their clocks agree within what the estimate says, and
// times of the engine's events are turned into those of this host.
func TestClocksOfHosts(t *testing.T) {
	hosts, _ := fakeHosts(t)
	c, err := CompareClocks(t.Context(), hosts.Source, hosts.Destination)
	require.NoError(t, err)
	require.LessOrEqual(t, max(c.AheadMS, -c.AheadMS), c.WithinMS)
	at := time.Unix(1e9, 0)
	hosts.Source.clock = remote.Clock{Ahead: time.Minute}
	require.Equal(t, at, hosts.Source.local(at.Add(time.Minute)))
	require.Equal(t, at, (*Host)(nil).local(at))
}

func TestReach(t *testing.T) {
	hosts := &Hosts{
		Source:      &Host{Conn: &remote.Conn{Target: remote.Target{Address: "a"}}},
		Destination: &Host{Conn: &remote.Conn{Target: remote.Target{Address: "fd00::2"}}},
	}
	at := &Site{Hosts: hosts}
	require.Equal(t, "tcp:0.0.0.0:0", at.source().listenAddress())
	require.Equal(t, "tcp:[::]:0", at.destination().listenAddress())
	to, err := hosts.reach("tcp:[::]:4711")
	require.NoError(t, err)
	require.Equal(t, "tcp:[fd00::2]:4711", to)
	_, err = hosts.reach("unix:/x")
	require.Error(t, err)
	to, err = (*Hosts)(nil).reach("unix:/x")
	require.NoError(t, err)
	require.Equal(t, "unix:/x", to)
	require.True(t, at.plain())
	hosts.Destination.TLSDir = "/tls"
	require.False(t, at.plain())
	require.False(t, (&Site{}).plain(), "the loopback")
}

// TestBring: a file is copied to a host once, and two of one name do not collide.
func TestBring(t *testing.T) {
	hosts, _ := fakeHosts(t)
	paths := map[string]bool{}
	for _, content := range []string{"one", "another"} {
		file := filepath.Join(t.TempDir(), "kernel")
		require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
		for range 2 {
			at, err := hosts.Source.bring(file)
			require.NoError(t, err)
			got, err := os.ReadFile(at)
			require.NoError(t, err)
			require.Equal(t, content, string(got))
			paths[at] = true
		}
	}
	require.Len(t, paths, 2)
	_, err := hosts.Source.bring("/nowhere")
	require.Error(t, err)
	at, err := hosts.Source.bring("")
	require.NoError(t, err)
	require.Empty(t, at)
	at, err = (*Host)(nil).bring("/here")
	require.NoError(t, err)
	require.Equal(t, "/here", at)
}

// TestLocalOnly: what needs one host is no trial of two.
func TestLocalOnly(t *testing.T) {
	require.Empty(t, guided().LocalOnly())
	for name, change := range map[string]func(*Spec){
		"baseline": func(s *Spec) { s.Baseline = BaselineTCP },
		"relay":    func(s *Spec) { s.RTT = time.Millisecond },
		"back":     func(s *Spec) { s.Moves = 2 },
		"build":    func(s *Spec) { s.Before = true },
		"disk":     func(s *Spec) { s.Guest.Disks = []string{"d"} },
		"network":  func(s *Spec) { s.Guest.Card = true },
		"policy":   func(s *Spec) { s.Params.Rule = migration.Rule("exec:./mine") },
	} {
		s := guided()
		change(&s)
		require.Contains(t, s.LocalOnly(), name)
	}
	hosts, _ := fakeHosts(t)
	s := guided()
	s.Moves = 2
	r := (&Site{Hosts: hosts}).Run(context.Background(), s)
	require.Contains(t, r.Error, "cannot be between two hosts")
}
