//go:build stockkvm

package linux

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/integration/stockkvm"
	"taskguide/migration"
)

// How often the tables' tests measure.
const (
	deviceRounds = 5
	moveRounds   = 3

	forever = 0 // how often the program load works
)

// moreTaps are two more interfaces on the bridge, for QEMU.
const moreTaps = `set -e
for tap in tap2 tap3; do
  tunctl -t $tap >/dev/null
  brctl addif br0 $tap
  ip link set $tap up
done`

// contender is a VMM with its guest.
type contender struct {
	name    string
	argv    func(n int, incoming bool) []string // of its n-th process
	address string                              // of the guest
	at      *machine
	n       int    // moves so far
	stats   string // the folder of KVM's counters
}

func (c *contender) vm() string    { return fmt.Sprintf("%s%d", c.name, c.n) }
func (c *contender) entry() string { return "/run/" + c.vm() + ".in" }

// vmmArgv is a VM with a disk and a card. At each move the card changes to the other interface.
func vmmArgv(n int, incoming bool) []string {
	argv := []string{"vmm", "run", "--name", fmt.Sprintf("vmm%d", n), "--disk", "/dev/vda",
		"--net", fmt.Sprintf("tap:tap%d", n%2)}
	if incoming {
		return append(argv, "--incoming", fmt.Sprintf("unix:/run/vmm%d.in", n))
	}
	return append(argv, "--memory", "128M", "--kernel", stockkvm.GuestKernel,
		"--initrd", stockkvm.GuestInitrd, "--cmdline", "console=ttyS0 quiet")
}

// qemuDevicesArgv is the same machine under QEMU: its devices run in the process, as those of vmm
// do, and the disk goes around the host's page cache. The monitor is behind ctrl-a c.
func qemuDevicesArgv(n int, incoming bool) []string {
	argv := []string{"qemu-system-x86_64", "-L", qemuShareThere, "-accel", "kvm", "-cpu", "host",
		"-machine", "q35", "-m", "128", "-nodefaults", "-no-user-config", "-display", "none",
		"-no-reboot", "-kernel", stockkvm.GuestKernel, "-initrd", stockkvm.GuestInitrd,
		"-append", "console=ttyS0 quiet", "-serial", "mon:stdio",
		"-blockdev", "raw,node-name=disk,cache.direct=on,file.driver=host_device," +
			"file.filename=/dev/vdb,file.cache.direct=on",
		"-device", "virtio-blk-pci,drive=disk",
		"-netdev", fmt.Sprintf("tap,id=net,ifname=tap%d,script=no,downscript=no,vhost=off", 2+n%2),
		"-device", "virtio-net-pci,netdev=net,romfile=,mac=02:00:00:00:00:08",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci"}
	if incoming {
		argv = append(argv, "-incoming", fmt.Sprintf("unix:/run/qemu%d.in", n))
	}
	return argv
}

// deviceWorks are the kinds of work of the program load. What the host asks for goes through the
// guest's card. Each is done so often, rather than for so long, because what starts and ends it
// costs the same each time.
var deviceWorks = []struct {
	work, says string
	times      int
	bytes      float64 // of an operation, if the tables count in MB
	byHost     bool
}{
	{"write", "disk: write, 1 MiB each", 300, 1 << 20, false},
	{"read", "disk: read, 1 MiB each", 300, 1 << 20, false},
	{"durable", "disk: durable writes of 4 KiB", 200, 0, false},
	{"random", "disk: reads of 4 KiB, 8 at once", 800, 0, false},
	{"send", "card: TCP to the guest", 200, 64 << 10, true},
	{"receive", "card: TCP from the guest", 200, 64 << 10, true},
	{"ask", "card: requests of 64 bytes", 400, 0, true},
}

// loadLine is a command that works.
func loadLine(label, work, target string, times int) string {
	return fmt.Sprintf("load %s %s %s %d", label, work, target, times)
}

// deviceCost is what one kind of work did, and what KVM and the host did for it.
type deviceCost struct {
	ops      float64
	took     time.Duration
	cpu      time.Duration // that the emulation of the host used
	exits    float64       // of the guest to KVM
	vmmExits float64       // those of them that the VMM handled
	switches float64       // of tasks in the host
}

var loadDone = regexp.MustCompile(`ops=([0-9]+) ns=([0-9]+) `)

// TestDevicesTable runs the same guest under vmm and under QEMU, in one host, and has both work
// their disks and cards by turns. It prints tables for docs/results/linux-devices.md, and compares
// nothing.
func TestDevicesTable(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	host := deviceHost(ctx, t)
	both := contenders(ctx, t, host)
	costs := map[string][]deviceCost{}
	for round := range deviceRounds {
		for _, w := range deviceWorks {
			// Whoever is second finds the host as the first one left it, so they take turns.
			for i := range both {
				c := both[(i+round)%len(both)]
				cost := c.measure(ctx, t, host, w.work, w.times, w.byHost)
				t.Logf("%s %s: %+v", c.name, w.work, cost)
				key := c.name + w.work
				costs[key] = append(costs[key], cost)
			}
		}
	}
	fmt.Println(deviceTables(costs))
}

// TestDevicesMoveTable moves the same guests while they are idle, while their disks are busy, and
// while their cards are. It prints tables, too, and compares nothing.
func TestDevicesMoveTable(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Minute)
	defer cancel()
	host := deviceHost(ctx, t)
	both := contenders(ctx, t, host)
	costs := map[string][]moveCost{}
	for range moveRounds {
		for _, busy := range busyWays {
			for _, c := range both {
				cost := c.moveBusy(ctx, t, host, busy)
				t.Logf("%s moved, %s: %+v", c.name, busy.says, cost)
				key := c.name + busy.says
				costs[key] = append(costs[key], cost)
			}
		}
	}
	fmt.Println(moveTables(costs))
}

// contenders boots the guests of both VMMs.
func contenders(ctx context.Context, t *testing.T, host *stockkvm.Host) []*contender {
	t.Helper()
	both := []*contender{
		{name: "vmm", argv: vmmArgv, address: "10.9.0.2"},
		{name: "qemu", argv: qemuDevicesArgv, address: "10.9.0.3"},
	}
	for _, c := range both {
		c.boot(ctx, t, host)
	}
	return both
}

// deviceHost boots a host with QEMU, two disks, and a bridge with four interfaces.
func deviceHost(ctx context.Context, t *testing.T) *stockkvm.Host {
	t.Helper()
	rig := newRig(t)
	path, err := rig.Build(ctx, "./integration/linux/load")
	require.NoError(t, err)
	program := stockkvm.File{Source: path, Target: "/bin/load"}
	initramfs := hostFiles(t, rig, []stockkvm.File{program},
		append(qemuFiles(t), program), "virtio_blk", "tun", "bridge")
	cfg, err := rig.HostConfig("linux", initramfs)
	require.NoError(t, err)
	dir := deviceDir(t)
	for _, name := range []string{"vmm.img", "qemu.img"} {
		image := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(image, make([]byte, 64<<20), 0o600))
		cfg.Disks = append(cfg.Disks, stockkvm.Disk{Path: image})
	}
	host := booted(t, cfg)
	requireRun(ctx, t, host, hugePages)
	requireRun(ctx, t, host, bridge)
	requireRun(ctx, t, host, moreTaps)
	requireRun(ctx, t, host, "mount -t debugfs debugfs /sys/kernel/debug")
	return host
}

// deviceDir is a folder in RAM, if there is one: what this machine's own disk does is no part of
// the comparison.
func deviceDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "devices")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// boot boots the guest, and has it answer on its card.
func (c *contender) boot(ctx context.Context, t *testing.T, host *stockkvm.Host) {
	t.Helper()
	const list = "ls /sys/kernel/debug/kvm | grep -e - || true"
	before := strings.Fields(requireRun(ctx, t, host, list))
	c.at = launched(t, host, c.argv(0, false))
	c.at.await(ctx, t, prompt)
	c.at.typed(t, "ip addr add "+c.address+"/24 dev eth0; ip link set eth0 up; load serve & "+
		"ip addr; echo up-$((6*7))")
	c.at.await(ctx, t, "up-42")
	requireRun(ctx, t, host, "until nc "+c.address+" 7 </dev/null; do sleep 0.2; done")
	for _, dir := range strings.Fields(requireRun(ctx, t, host, list)) {
		if !slices.Contains(before, dir) {
			c.stats = "/sys/kernel/debug/kvm/" + dir
		}
	}
	require.NotEmpty(t, c.stats, "KVM's counters of the VM")
}

// measure has the guest work, or the host work with it, and counts.
func (c *contender) measure(
	ctx context.Context, t *testing.T, host *stockkvm.Host, work string, times int, byHost bool,
) deviceCost {
	t.Helper()
	before := c.counters(ctx, t, host)
	used, err := host.CPUTime()
	require.NoError(t, err)
	var said string
	if byHost {
		said = requireRun(ctx, t, host, loadLine("all", work, c.address, times))
	} else {
		label := fmt.Sprintf("done-%d", time.Now().UnixNano())
		c.at.typed(t, loadLine(label, work, "/dev/vda", times))
		c.at.await(ctx, t, label+"!")
		said = c.at.console.String()
	}
	now, err := host.CPUTime()
	require.NoError(t, err)
	after := c.counters(ctx, t, host)
	all := loadDone.FindAllStringSubmatch(said, -1)
	require.NotEmpty(t, all, said)
	last := all[len(all)-1]
	ops, err := strconv.ParseFloat(last[1], 64)
	require.NoError(t, err)
	ns, err := strconv.ParseInt(last[2], 10, 64)
	require.NoError(t, err)
	return deviceCost{
		ops: ops, took: time.Duration(ns), cpu: now - used, exits: after[0] - before[0],
		vmmExits: after[1] + after[2] - before[1] - before[2], switches: after[3] - before[3],
	}
}

// counters reads what KVM has counted for the VM, and how often the host has switched tasks.
func (c *contender) counters(ctx context.Context, t *testing.T, host *stockkvm.Host) [4]float64 {
	t.Helper()
	var all [4]float64
	text := requireRun(ctx, t, host, "cd "+c.stats+" && cat exits io_exits mmio_exits && "+
		"grep ctxt /proc/stat | cut -d ' ' -f 2")
	_, err := fmt.Sscan(text, &all[0], &all[1], &all[2], &all[3])
	require.NoError(t, err, text)
	return all
}

// busyWay is what a guest does while it moves.
type busyWay struct {
	says       string
	disk, card string // kinds of work
}

var busyWays = []busyWay{
	{says: "idle"},
	{says: "disk writes 1 MiB each", disk: "write"},
	{says: "disk reads 1 MiB each", disk: "read"},
	{says: "card receives", card: "send"},
}

// moveCost is what a move cost, in milliseconds. Moves of QEMU have only the first three.
type moveCost struct {
	downtime, total             float64
	cpu                         float64 // that the emulation of the host used, for all of moveBusy
	quiesce, pages, drain, sync float64 // see migration.Report
	setup, first, rounds        float64 // of them, the first round, and how many there were
}

// moveBusy moves a guest while it does something.
func (c *contender) moveBusy(
	ctx context.Context, t *testing.T, host *stockkvm.Host, busy busyWay,
) moveCost {
	t.Helper()
	used, err := host.CPUTime()
	require.NoError(t, err)
	if busy.disk != "" {
		c.at.typed(t, loadLine("busy", busy.disk, "/dev/vda", forever)+
			fmt.Sprintf(" & busy=$!; sleep 1; echo busy-%d-$((6*7))", c.n))
		c.at.await(ctx, t, fmt.Sprintf("busy-%d-42", c.n))
	}
	if busy.card != "" {
		load, err := host.Start(stockkvm.Command{
			Argv: strings.Fields(loadLine("busy", busy.card, c.address, forever)),
		})
		require.NoError(t, err)
		time.Sleep(2 * time.Second)
		defer func() {
			requireRun(ctx, t, host, "killall load")
			_, err := load.Wait(ctx)
			require.NoError(t, err)
		}()
	}
	c.n++
	next := launched(t, host, c.argv(c.n, true))
	var cost moveCost
	if c.name == "vmm" {
		cost = c.moveOurs(ctx, t, host)
	} else {
		cost = c.moveQEMU(ctx, t, host)
	}
	c.at = next
	if busy.disk != "" {
		c.at.typed(t, "kill $busy")
	}
	c.at.typed(t, fmt.Sprintf("echo moved-%d-$((6*7))", c.n))
	c.at.await(ctx, t, fmt.Sprintf("moved-%d-42", c.n))
	now, err := host.CPUTime()
	require.NoError(t, err)
	cost.cpu = float64((now - used).Milliseconds())
	return cost
}

func (c *contender) moveOurs(ctx context.Context, t *testing.T, host *stockkvm.Host) moveCost {
	t.Helper()
	awaitUp(ctx, t, host, c.vm())
	out, err := host.Run(ctx, "vmm", "migrate", fmt.Sprintf("vmm%d", c.n-1), "unix:"+c.entry(),
		"--json", "--standstill-limit", "2m")
	require.NoError(t, err)
	require.Zero(t, out.Exit.Code, out.Stderr)
	report := reportOf(t, out.Stdout)
	_, err = c.at.Wait(ctx)
	require.NoError(t, err)
	return moveCost{
		downtime: report.DowntimeMS, total: report.TotalMS, quiesce: report.Downtime.QuiesceMS,
		pages: report.Downtime.PagesMS, drain: report.DrainMS, sync: report.PresyncMS,
		setup: report.SetupMS, first: report.Rounds[0].MS, rounds: float64(len(report.Rounds)),
	}
}

func reportOf(t *testing.T, output string) migration.Report {
	t.Helper()
	var report migration.Report
	require.NoError(t, json.Unmarshal([]byte(output), &report))
	require.Equal(t, migration.StatusCompleted, report.Status)
	return report
}

// qemuDone is in what QEMU's monitor says of a complete migration. It says that one is complete
// before it has worked out how long that took.
var qemuDone = regexp.MustCompile(`total time: ([1-9][0-9]*) ms\s+downtime: ([0-9]+) ms`)

// moveQEMU moves QEMU's guest by orders to its monitor, which it leaves to the console of the
// process that has moved away.
func (c *contender) moveQEMU(ctx context.Context, t *testing.T, host *stockkvm.Host) moveCost {
	t.Helper()
	requireRun(ctx, t, host, "until [ -S "+c.entry()+" ]; do sleep 0.1; done")
	require.NoError(t, c.at.Input([]byte("\x01c")))
	c.at.await(ctx, t, "(qemu)")
	c.at.typed(t, "migrate -d unix:"+c.entry())
	var times []string
	for times == nil {
		require.NoError(t, ctx.Err(), c.at.console.String())
		require.NotContains(t, c.at.console.String(), "tatus: failed")
		c.at.typed(t, "info migrate")
		time.Sleep(time.Second)
		times = qemuDone.FindStringSubmatch(c.at.console.String())
	}
	total, err := strconv.ParseFloat(times[1], 64)
	require.NoError(t, err)
	downtime, err := strconv.ParseFloat(times[2], 64)
	require.NoError(t, err)
	c.at.typed(t, "quit")
	_, err = c.at.Wait(ctx)
	require.NoError(t, err)
	return moveCost{downtime: downtime, total: total}
}

func medianOf(all []float64) float64 {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// deviceTables are the medians. Ratios are the medians of each round's.
func deviceTables(costs map[string][]deviceCost) string {
	var b strings.Builder
	table := func(title string, of func(c deviceCost, bytes float64) float64) {
		fmt.Fprintf(&b, "%s\n\n| work | vmm | QEMU | vmm/QEMU |\n|---|---:|---:|---:|\n", title)
		for _, w := range deviceWorks {
			var ours, theirs, ratios []float64
			for i, c := range costs["vmm"+w.work] {
				x, y := of(c, w.bytes), of(costs["qemu"+w.work][i], w.bytes)
				ours, theirs, ratios = append(ours, x), append(theirs, y), append(ratios, x/y)
			}
			unit := ""
			if w.bytes != 0 {
				unit = " (MB)"
			}
			ratio := "-"
			if r := medianOf(ratios); !math.IsNaN(r) {
				ratio = fmt.Sprintf("%.2f", r)
			}
			fmt.Fprintf(&b, "| %s%s | %.4g | %.4g | %s |\n", w.says, unit, medianOf(ours),
				medianOf(theirs), ratio)
		}
		fmt.Fprintln(&b)
	}
	// amount is in MB of a stream, or in requests.
	amount := func(c deviceCost, bytes float64) float64 {
		if bytes == 0 {
			return c.ops
		}
		return c.ops * bytes / 1e6
	}
	table("MB or requests a second:", func(c deviceCost, bytes float64) float64 {
		return amount(c, bytes) / c.took.Seconds()
	})
	table("CPU time of the emulation, ms for an MB or a request:",
		func(c deviceCost, bytes float64) float64 {
			return c.cpu.Seconds() * 1e3 / amount(c, bytes)
		})
	table("Exits of the guest for an MB or a request:", func(c deviceCost, bytes float64) float64 {
		return c.exits / amount(c, bytes)
	})
	table("Exits that the VMM handles, for an MB or a request:",
		func(c deviceCost, bytes float64) float64 { return c.vmmExits / amount(c, bytes) })
	table("Switches between tasks of the host, for an MB or a request:",
		func(c deviceCost, bytes float64) float64 { return c.switches / amount(c, bytes) })
	return b.String()
}

// moveTables are the medians of what moves cost.
func moveTables(costs map[string][]moveCost) string {
	median := func(key string, of func(moveCost) float64) float64 {
		var all []float64
		for _, c := range costs[key] {
			all = append(all, of(c))
		}
		return medianOf(all)
	}
	var b strings.Builder
	downtime := func(c moveCost) float64 { return c.downtime }
	total := func(c moveCost) float64 { return c.total / 1e3 }
	fmt.Fprintln(&b, "| guest | vmm, downtime ms | QEMU, downtime ms | vmm, all s | QEMU, all s |"+
		"\n|---|---:|---:|---:|---:|")
	for _, w := range busyWays {
		fmt.Fprintf(&b, "| %s | %.0f | %.0f | %.1f | %.1f |\n", w.says,
			median("vmm"+w.says, downtime), median("qemu"+w.says, downtime),
			median("vmm"+w.says, total), median("qemu"+w.says, total))
	}
	fmt.Fprintln(&b, "\n| guest under vmm | quiesce ms | pages ms | drain ms | presync ms |"+
		"\n|---|---:|---:|---:|---:|")
	for _, w := range busyWays {
		key := "vmm" + w.says
		fmt.Fprintf(&b, "| %s | %.1f | %.0f | %.0f | %.0f |\n", w.says,
			median(key, func(c moveCost) float64 { return c.quiesce }),
			median(key, func(c moveCost) float64 { return c.pages }),
			median(key, func(c moveCost) float64 { return c.drain }),
			median(key, func(c moveCost) float64 { return c.sync }))
	}
	cpu := func(c moveCost) float64 { return c.cpu / 1e3 }
	fmt.Fprintln(&b, "\n| guest | vmm, CPU s | QEMU, CPU s |\n|---|---:|---:|")
	for _, w := range busyWays {
		fmt.Fprintf(&b, "| %s | %.1f | %.1f |\n", w.says, median("vmm"+w.says, cpu),
			median("qemu"+w.says, cpu))
	}
	fmt.Fprintln(&b, "\n| guest under vmm | setup s | round 1 s | rounds |\n|---|---:|---:|---:|")
	for _, w := range busyWays {
		key := "vmm" + w.says
		fmt.Fprintf(&b, "| %s | %.1f | %.1f | %.0f |\n", w.says,
			median(key, func(c moveCost) float64 { return c.setup / 1e3 }),
			median(key, func(c moveCost) float64 { return c.first / 1e3 }),
			median(key, func(c moveCost) float64 { return c.rounds }))
	}
	return b.String()
}
