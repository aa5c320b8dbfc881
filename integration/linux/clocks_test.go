//go:build stockkvm

package linux

import (
	"context"
	"crypto/md5"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
)

const (
	clocksCPUs = 2
	// clockMoves is how many times the guest moves.
	clockMoves = 5
	// clockReadings is how many good readings of each CPU a process of vmm waits for.
	clockReadings = 3
	// clockWidth is how long a good reading takes at most, and clockError how far a clock may be
	// from where the others say that it is. A clock that lost a standstill would be off by all of
	// it, which is 100 ms or more here.
	clockWidth = time.Millisecond
	clockError = 2 * clockWidth
)

// clockLine is a line of the program clocks.
var clockLine = regexp.MustCompile(
	`clocks cpu=([0-9]+) mono=([0-9]+) real=([0-9]+) tsc=([0-9]+) width=([0-9]+)\r?\n`)

// clockReading is what a guest's clocks said at one moment.
type clockReading struct {
	cpu        int
	mono, real time.Duration
	tsc, width float64 // cycles
}

// clockLog collects the readings of a guest, whichever process it is in.
type clockLog struct {
	kHz float64 // the TSC's
	all []clockReading
}

// await waits until the guest has printed some good readings of each CPU in this process.
func (l *clockLog) await(ctx context.Context, t *testing.T, m *machine) {
	t.Helper()
	for {
		fresh := l.parse(m.console.String())
		good := [clocksCPUs]int{}
		for _, r := range fresh {
			good[r.cpu]++
		}
		if good[0] >= clockReadings && good[1] >= clockReadings {
			return
		}
		require.NoError(t, ctx.Err(), "%d and %d good readings\n%s\n%s", good[0], good[1],
			m.console.String(), m.stderr.String())
		time.Sleep(200 * time.Millisecond)
	}
}

// parse returns the good readings of a console.
func (l *clockLog) parse(console string) []clockReading {
	var good []clockReading
	for _, f := range clockLine.FindAllStringSubmatch(console, -1) {
		var n [5]int64
		for i := range n {
			n[i], _ = strconv.ParseInt(f[i+1], 10, 64)
		}
		r := clockReading{cpu: int(n[0]), mono: time.Duration(n[1]), real: time.Duration(n[2]),
			tsc: float64(n[3]), width: float64(n[4])}
		if l.duration(r.width) <= clockWidth {
			good = append(good, r)
		}
	}
	return good
}

// duration is the time in which the TSC counts so many cycles.
func (l *clockLog) duration(cycles float64) time.Duration {
	return time.Duration(cycles / l.kHz * 1e6)
}

// requireSteady fails unless all readings are of clocks that go on together, as if the guest had
// never been moved: each reading tells the difference between two clocks, which stays.
func (l *clockLog) requireSteady(t *testing.T) {
	t.Helper()
	var first [clocksCPUs]*clockReading
	var worst, worstTSC time.Duration
	for i, r := range l.all {
		f := first[r.cpu]
		if f == nil {
			first[r.cpu] = &l.all[i]
			continue
		}
		worst = max(worst, ((r.real - f.real) - (r.mono - f.mono)).Abs())
		worstTSC = max(worstTSC, (l.duration(r.tsc-f.tsc) - (r.mono - f.mono)).Abs())
	}
	span := l.all[len(l.all)-1].mono - l.all[0].mono
	t.Logf("%d readings in %.1f s: CLOCK_REALTIME off by at most %v, the TSC by %v", len(l.all),
		span.Seconds(), worst, worstTSC)
	require.Less(t, worst, clockError, "CLOCK_REALTIME against CLOCK_MONOTONIC")
	require.Less(t, worstTSC, clockError, "TSC against CLOCK_MONOTONIC")
}

// complaints are lines in a kernel's log that tell of trouble with time.
var complaints = regexp.MustCompile(`(?i)clocksource|\btsc\b|unstable` +
	`|rcu.*(stall|detected|starved)|hung|blocked for more|soft lockup|hard lockup|watchdog` +
	`|time went|clock skew|backwards`)

// queuedBridge makes a bridge with two TAP interfaces that have several queues.
const queuedBridge = `set -e
ip link add br0 type bridge
ip addr add 10.9.0.1/24 dev br0
ip link set br0 up
taps mq0 mq1
for tap in mq0 mq1; do
  brctl addif br0 $tap
  ip link set $tap up
done`

// echoServer sends back what it gets. Each l is a connection that may wait to be accepted: where
// flows at once do not fit, the kernel answers them with SYN cookies, which a flow does not outlive
// if the guest drops its first segment of data and takes the second.
const echoServer = "nc -llllllll -p 7 -e cat"

// flowSize is how many bytes of a flow come back, and flows sends as many by four connections at
// once. It prints how often it got which sum.
const flowSize = 20000

var flows = fmt.Sprintf(`until echo | nc 10.9.0.2 7 >/dev/null 2>&1; do sleep 0.2; done
for i in 1 2 3 4; do
  head -c %d /dev/zero | nc 10.9.0.2 7 | md5sum &
done | sort | uniq -c`, flowSize)

// requireFlows fails unless each flow comes back whole.
func requireFlows(ctx context.Context, t *testing.T, host *stockkvm.Host) {
	t.Helper()
	out, err := host.Run(ctx, "sh", "-c", flows)
	require.NoError(t, err)
	require.Equal(t, fmt.Sprintf("4 %x  -", md5.Sum(make([]byte, flowSize))),
		strings.TrimSpace(out.Stdout), out.Stderr)
}

// clocksNet are the flags of the n-th process for the card, which has a pair of queues a vCPU.
func clocksNet(n int) []string {
	return []string{"--net", fmt.Sprintf("tap:mq%d,queues=%d", n%2, clocksCPUs)}
}

// TestClocksOfAMovedGuestAreSteady moves Debian's kernel with 2 vCPUs five times, verified. Its
// clocks go on together as in a guest that was not moved: none goes back, or forth against another,
// and none loses the time in which the guest stood still. Its log tells of no trouble. Its card has
// a pair of queues for each vCPU, and works after each move.
func TestClocksOfAMovedGuestAreSteady(t *testing.T) {
	rig := newRig(t)
	clocks, err := rig.Build(t.Context(), "./integration/linux/clocks")
	require.NoError(t, err)
	// Without huge pages, as Debian is: these guests move in pages of 4 KiB.
	program := stockkvm.File{Source: clocks, Target: "/bin/clocks"}
	taps, err := rig.Build(t.Context(), "./integration/linux/taps")
	require.NoError(t, err)
	cfg, err := rig.HostConfig("linux", hostFiles(t, rig, []stockkvm.File{program},
		[]stockkvm.File{program, {Source: taps, Target: "/bin/taps"}}, "tun", "bridge"))
	require.NoError(t, err)
	host := booted(t, cfg)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	requireRun(ctx, t, host, queuedBridge)
	at := run(t, host, append(clocksNet(0), "--name", "clock0", "--memory", "192M",
		"--cpus", fmt.Sprint(clocksCPUs),
		"--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd,
		"--cmdline", "console=ttyS0 quiet")...)
	at.await(ctx, t, prompt)
	at.typed(t, "ip addr add 10.9.0.2/24 dev eth0; ip link set eth0 up; "+echoServer+" & "+
		"echo queues: $(ls /sys/class/net/eth0/queues).")
	at.await(ctx, t, "queues: rx-0 rx-1 tx-0 tx-1.")
	requireFlows(ctx, t, host)
	at.typed(t, "dmesg | grep -o 'Detected .* MHz' | head -n 1; echo processors=$(nproc).; "+
		"cat /sys/devices/system/clocksource/clocksource0/current_clocksource")
	at.await(ctx, t, fmt.Sprintf("processors=%d.", clocksCPUs))
	at.await(ctx, t, "kvm-clock")
	before := offsetOf(ctx, t, host, at, "before")
	log := &clockLog{kHz: detectedKHz(t, at.console.String())}
	at.typed(t, "echo moves-begin >/dev/kmsg; clocks &")
	log.await(ctx, t, at)
	for n := range clockMoves {
		from, to := fmt.Sprintf("clock%d", n), fmt.Sprintf("clock%d", n+1)
		next := run(t, host, append(clocksNet(n+1), "--name", to, "--incoming", "unix:/run/"+to)...)
		awaitUp(ctx, t, host, to)
		moved(ctx, t, host, from, "unix:/run/"+to)
		_, err := at.Wait(ctx)
		require.NoError(t, err)
		log.take(t, at)
		at = next
		log.await(ctx, t, at)
		requireFlows(ctx, t, host)
	}
	log.take(t, at)
	log.requireSteady(t)

	after := offsetOf(ctx, t, host, at, "after")
	t.Logf("the guest's date is ahead of the host's by %v before and %v after", before, after)
	require.True(t, before.least <= after.most && after.least <= before.most,
		"the guest's date went on as the host's did: ahead by %v, then by %v", before, after)
	// What clocks prints has words of its own, wherever they are cut.
	at.typed(t, "kill $!; wait $!; echo log-$((6*7)); dmesg | sed '1,/moves-begin/d'; "+
		"echo end-of-$((6*7))")
	at.await(ctx, t, "end-of-42")
	_, said, begun := strings.Cut(at.console.String(), "log-42")
	said, _, ended := strings.Cut(said, "end-of-42")
	require.True(t, begun && ended, at.console.String())
	require.NotRegexp(t, complaints, said)
}

// take adds what the guest said in a process, once it has left.
func (l *clockLog) take(t *testing.T, m *machine) {
	t.Helper()
	require.NotContains(t, m.console.String(), "backwards cpu")
	l.all = append(l.all, l.parse(m.console.String())...)
}

// detectedKHz finds the TSC's frequency in a console.
func detectedKHz(t *testing.T, console string) float64 {
	t.Helper()
	found := regexp.MustCompile(`Detected ([0-9.]+) MHz`).FindStringSubmatch(console)
	require.NotNil(t, found, console)
	mhz, err := strconv.ParseFloat(found[1], 64)
	require.NoError(t, err)
	return math.Round(mhz * 1000)
}

// offset is by how much a guest's date is ahead of its host's. It is only known within limits,
// because the two are not read at one moment.
type offset struct{ least, most time.Duration }

func (o offset) String() string {
	return fmt.Sprintf("%.3f to %.3f s", o.least.Seconds(), o.most.Seconds())
}

// offsetOf asks the guest for its date, and the host before and after that, several times: the
// narrowest limits hold.
func offsetOf(
	ctx context.Context, t *testing.T, host *stockkvm.Host, m *machine, word string,
) offset {
	t.Helper()
	hostDate := func() time.Duration {
		n, err := strconv.ParseInt(strings.TrimSpace(
			requireRun(ctx, t, host, "clocks now")), 10, 64)
		require.NoError(t, err)
		return time.Duration(n)
	}
	known := offset{least: math.MinInt64, most: math.MaxInt64}
	for i := range clockReadings {
		mark := fmt.Sprintf("date-%s%d=", word, i)
		earlier := hostDate()
		m.typed(t, "echo "+mark+"$(clocks now).")
		m.await(ctx, t, mark+"1")
		line := regexp.MustCompile(mark + `([0-9]+)\.`)
		require.Eventually(t, func() bool { return line.MatchString(m.console.String()) },
			time.Minute, 100*time.Millisecond)
		later := hostDate()
		n, err := strconv.ParseInt(line.FindStringSubmatch(m.console.String())[1], 10, 64)
		require.NoError(t, err)
		known.least = max(known.least, time.Duration(n)-later)
		known.most = min(known.most, time.Duration(n)-earlier)
	}
	return known
}
