//go:build stockkvm

package redis

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"text/tabwriter"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel/heartbeat"
	"taskguide/integration/stockkvm"
	"taskguide/migration"
)

const (
	// sharedImage is the guest's disk where both hosts see it.
	sharedImage = stockkvm.StoreDir + "/guest.img"

	inside   = "/bin/load"
	endpoint = guestAddress + ":" + guestPort
	port     = 7000 // of migrations
)

// scene is two hosts, a guest that serves redis on one of them, and a client of it on host a.
type scene struct {
	t    *testing.T
	pair *stockkvm.Pair

	hop   int // how often the guest has moved; it began on host b
	guest *process

	client *process
	marks  int // how many marks the client was given

	migrate []string // more flags of vmm migrate
}

// process is a program inside a host, with what it has written.
type process struct {
	*stockkvm.Job
	stdout, stderr heartbeat.Log // only as text that a test can wait for
}

// setUp boots two hosts and puts the guest's disk where both see it.
func setUp(ctx context.Context, t *testing.T) *scene {
	t.Helper()
	dir := t.TempDir()
	rig, err := stockkvm.NewRig(ctx, dir)
	require.NoError(t, err)
	image, err := makeImage(ctx, dir)
	require.NoError(t, err)
	pair, err := rig.StartPair(ctx, initramfs(ctx, t, rig),
		func(host int, cfg *stockkvm.HostConfig) {
			if host == 0 {
				require.NoError(t, stockkvm.AddStore(cfg))
				cfg.Disks = append(cfg.Disks, stockkvm.Disk{Path: image, Serial: "guest"})
			}
		})
	require.NoError(t, err)
	t.Cleanup(pair.Close)
	_, err = pair.SetClocks(ctx)
	require.NoError(t, err)
	require.NoError(t, pair.Bridge(ctx))
	require.NoError(t, pair.ShareStore(ctx))
	s := &scene{t: t, pair: pair}
	s.shell(ctx, 0, "dd if=/dev/vdb of="+sharedImage+" bs=1M 2>/dev/null && sync")
	return s
}

// initramfs is that of both hosts.
func initramfs(ctx context.Context, t *testing.T, rig *stockkvm.Rig) string {
	t.Helper()
	files, err := rig.GuestFiles()
	require.NoError(t, err)
	vmm, err := rig.Build(ctx, "./cmd/vmm")
	require.NoError(t, err)
	load, err := rig.Build(ctx, "./integration/redis/load")
	require.NoError(t, err)
	files = append(files, stockkvm.PairHosts(),
		stockkvm.File{Source: vmm, Target: "/bin/vmm"},
		stockkvm.File{Source: load, Target: inside})
	path, err := rig.Initramfs("redis", files,
		append(stockkvm.ScriptModules, stockkvm.StoreModules...)...)
	require.NoError(t, err)
	return path
}

// shell runs a line in a host's shell. It must succeed.
func (s *scene) shell(ctx context.Context, host int, line string) {
	s.t.Helper()
	out, err := s.pair.Hosts[host].Run(ctx, "sh", "-c", line)
	require.NoError(s.t, err)
	require.Zero(s.t, out.Exit.Code, "%s\n%s", out.Stdout, out.Stderr)
}

func (s *scene) start(host int, argv ...string) *process {
	s.t.Helper()
	p := &process{}
	var err error
	p.Job, err = s.pair.Hosts[host].Start(stockkvm.Command{
		Argv: argv, Input: true, Stdout: &p.stdout, Stderr: &p.stderr,
	})
	require.NoError(s.t, err)
	return p
}

func (p *process) await(ctx context.Context, t *testing.T, text string) {
	t.Helper()
	require.NoError(t, p.stdout.WaitText(ctx, text), "%s\n%s", p.stdout.String(),
		p.stderr.String())
}

// run starts vmm run on a host, with the disk and the card that the guest has everywhere.
func (s *scene) run(host int, name string, more ...string) *process {
	s.t.Helper()
	return s.start(host, append([]string{
		"vmm", "run", "--name", name, "--disk", sharedImage,
		"--net", "tap:" + stockkvm.GuestTAP + ",mac=" + guestMAC,
	}, more...)...)
}

// boot boots the guest on a host.
func (s *scene) boot(host int, name string) *process {
	s.t.Helper()
	return s.run(host, name, "--memory", "128M", "--kernel", stockkvm.GuestKernel,
		"--initrd", stockkvm.GuestInitrd, "--cmdline", "console=ttyS0 quiet root=/dev/vda rw")
}

// hostAt is where the guest is after some moves. It begins on b, so that after an even number of
// moves b may die: a has the store and the client.
func hostAt(hop int) int { return (hop + 1) % 2 }

func guestName(hop int) string { return fmt.Sprintf("guest-%d", hop) }

// mark makes the client sum up its requests since the mark before it. The last request of a sum
// began after the client had the mark.
func (s *scene) mark(ctx context.Context) Summary {
	s.t.Helper()
	s.marks++
	name := fmt.Sprintf("mark-%d.", s.marks)
	require.NoError(s.t, s.client.Input([]byte(name+"\n")))
	line, err := s.client.stdout.WaitLine(ctx, `{"mark":"`+name)
	require.NoError(s.t, err, s.client.stderr.String())
	var sum Summary
	require.NoError(s.t, json.Unmarshal([]byte(line), &sum))
	return sum
}

// step is one move, and what the client saw of it.
type step struct {
	report migration.Report
	seen   Summary // of the requests from before the move until after it
}

// resent is how many bytes of RAM were sent again after the first round.
func (s step) resent() int64 {
	var pages int64
	for _, r := range s.report.Rounds[1:] {
		pages += r.SentPages
	}
	return pages * 4096
}

// move moves the guest to the other host, and then waits until the client has more answers.
func (s *scene) move(ctx context.Context) step {
	s.t.Helper()
	from, to := hostAt(s.hop), hostAt(s.hop+1)
	address := net.JoinHostPort(s.pair.Address(to), fmt.Sprint(port))
	next := s.run(to, guestName(s.hop+1), "--incoming", "tcp:"+address, "--insecure")
	s.awaitUp(ctx, to, guestName(s.hop+1))
	s.mark(ctx)
	// A busy machine below the hosts may let any time pass, so no standstill is too long.
	out := s.order(ctx, from, append([]string{
		"vmm", "migrate", guestName(s.hop), "tcp:" + address, "--insecure", "--json",
		"--standstill-limit", "0",
	}, s.migrate...))
	require.Zero(s.t, out.Exit.Code, "%s\n%s\n%s", out.Stderr, s.guest.stderr.String(),
		next.stderr.String())
	done := step{seen: s.mark(ctx)}
	require.NoError(s.t, json.Unmarshal([]byte(out.Stdout), &done.report))
	require.Equal(s.t, migration.StatusCompleted, done.report.Status)
	exit, err := s.guest.Wait(ctx)
	require.NoError(s.t, err)
	require.Zero(s.t, exit.Code, s.guest.stderr.String())
	s.hop, s.guest = s.hop+1, next
	return done
}

// order runs an order to move a VM, and again while the VM's process does not answer in time. A
// migration that failed has a report.
func (s *scene) order(ctx context.Context, at int, argv []string) stockkvm.Output {
	s.t.Helper()
	for lost := false; ; lost = true {
		out, err := s.pair.Hosts[at].Run(ctx, argv...)
		require.NoError(s.t, err)
		late := strings.Contains(out.Stderr, "it may be stopped (kill") ||
			lost && strings.Contains(out.Stderr, "is under way")
		if out.Stdout != "" || !late {
			return out
		}
	}
}

// awaitUp waits until a vmm run answers on its control socket.
func (s *scene) awaitUp(ctx context.Context, host int, name string) {
	s.t.Helper()
	for {
		out, err := s.pair.Hosts[host].Run(ctx, "vmm", "status", name, "--json")
		require.NoError(s.t, err)
		// A VM that is still starting does not listen yet.
		if out.Exit.Code == 0 && !strings.Contains(out.Stdout, `"state": "starting"`) {
			return
		}
	}
}

// finish ends the client, which checks every request over the connection that it has had all the
// time, and returns what it recorded.
func (s *scene) finish(ctx context.Context) []string {
	s.t.Helper()
	require.NoError(s.t, s.client.Input([]byte("end\n")))
	exit, err := s.client.Wait(ctx)
	require.NoError(s.t, err)
	require.Zero(s.t, exit.Code, s.client.stderr.String())
	_, text, ok := strings.Cut(s.client.stdout.String(), "verified ")
	require.True(s.t, ok)
	lines := strings.Split(strings.TrimSpace(text), "\n")
	require.Equal(s.t, lines[0], fmt.Sprint(len(lines)-1), "a line for each request")
	return lines[1:]
}

// TestRedisOverTwentyMoves: no move costs the client its connection or a request, and what it was
// answered outlives the guest.
func TestRedisOverTwentyMoves(t *testing.T) { redisMoves(t, 20, 60*time.Minute) }

// TestRedisThereAndBack is the same, in a time that CI has. It also verifies RAM and the machine's
// state, which would make the downtimes of twenty moves longer. Only that notices a page that a
// device wrote and a move forgot: redis seldom reads what it was given before.
func TestRedisThereAndBack(t *testing.T) { redisMoves(t, 2, 12*time.Minute, "--verify") }

func redisMoves(t *testing.T, moves int, limit time.Duration, migrate ...string) {
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	started := time.Now()
	s := setUp(ctx, t)
	s.migrate = migrate
	t.Logf("two hosts and the guest's disk after %.0f s", time.Since(started).Seconds())
	s.guest = s.boot(hostAt(0), guestName(0))
	s.client = s.start(0, inside, "run", endpoint)
	s.client.await(ctx, t, "connected")
	t.Logf("redis answers after %.0f s", time.Since(started).Seconds())
	before := s.mark(ctx)
	var steps []step
	for range moves {
		steps = append(steps, s.move(ctx))
		t.Logf("move %d after %.0f s", len(steps), time.Since(started).Seconds())
	}
	after := s.mark(ctx)
	requests := s.finish(ctx)
	t.Logf("%d requests; before the first move %+v, after the last %+v\n%s", len(requests),
		before, after, table(steps))
	keep(t, requests)

	s.hostDies(ctx)
	out, err := s.pair.Hosts[0].Run(ctx, inside, "verify", endpoint, fmt.Sprint(len(requests)))
	require.NoError(t, err)
	require.Zero(t, out.Exit.Code, out.Stderr)
}

// hostDies ends host b as if its power had failed, with the guest on it, and boots another guest
// from the disk on host a. The store gives up the dead host's lock after its lease of 10 s. Until
// then vmm refuses the disk.
func (s *scene) hostDies(ctx context.Context) {
	s.t.Helper()
	require.Equal(s.t, 1, hostAt(s.hop))
	s.pair.Hosts[1].Close()
	died := time.Now()
	for {
		fresh := s.boot(0, "fresh")
		lives, end := context.WithCancel(ctx)
		go func() {
			<-fresh.Done()
			end()
		}()
		if fresh.stdout.WaitText(lives, "userland") == nil {
			break
		}
		require.NoError(s.t, ctx.Err(), fresh.stderr.String())
		require.Contains(s.t, fresh.stderr.String(), "another process has locked it")
	}
	s.t.Logf("another guest booted from the disk %.0f s after its host died",
		time.Since(died).Seconds())
}

// table shows the moves.
func table(steps []step) string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "move\tlongest request ms\tdowntime ms\tresent KiB\twhole move ms\t")
	for i, s := range steps {
		fmt.Fprintf(w, "%d\t%.0f\t%.0f\t%d\t%.0f\t\n", i+1, s.seen.Longest, s.report.DowntimeMS,
			s.resent()>>10, s.report.TotalMS)
	}
	w.Flush()
	return b.String()
}

// keep writes the latency of every request to requests.txt in the folder $REDIS_OUT, if it is set.
func keep(t *testing.T, requests []string) {
	t.Helper()
	dir := os.Getenv("REDIS_OUT")
	if dir == "" {
		return
	}
	f, err := os.Create(filepath.Join(dir, "requests.txt"))
	require.NoError(t, err)
	defer f.Close()
	w := bufio.NewWriter(f)
	fmt.Fprintln(w, "# began, in microseconds of the Unix epoch; took, in microseconds")
	for _, r := range requests {
		fmt.Fprintln(w, r)
	}
	require.NoError(t, w.Flush())
}
