//go:build stockkvm

package linux

import (
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/guestkernel/heartbeat"
	"taskguide/integration/stockkvm"
)

// bootRounds is how often each VMM boots the guest with each number of vCPUs.
const bootRounds = 3

// Where QEMU's files are on this machine, and inside.
const (
	qemuFirmware   = "/usr/share/seabios"
	qemuShare      = "/usr/share/qemu"
	qemuShareThere = "/usr/share/qemu"
)

// vmmUnderTest is a way to boot the guest.
type vmmUnderTest struct {
	name    string
	prepare string // a line for the host's shell
	argv    func(cpus int) []string
}

const noHugePages = "echo never >/sys/kernel/mm/transparent_hugepage/shmem_enabled"

// vmmsUnderTest boot the same kernel with a serial console, a source of random numbers and a second
// console. QEMU's RAM has huge pages by Debian's default, and that of vmm, which is shared, only if
// the host allows it.
var vmmsUnderTest = []vmmUnderTest{
	{name: "vmm", prepare: noHugePages, argv: ourArgv},
	{name: "vmm, huge pages", prepare: hugePages, argv: ourArgv},
	{name: "QEMU microvm", prepare: noHugePages, argv: func(cpus int) []string {
		return qemuArgv("microvm,pic=off,pit=off,rtc=off,pcie=on,acpi=on", cpus)
	}},
	{name: "QEMU q35", prepare: noHugePages, argv: func(cpus int) []string {
		return qemuArgv("q35", cpus)
	}},
}

func ourArgv(cpus int) []string {
	return []string{"vmm", "run", "--name", "boot", "--memory", "192M", "--cpus",
		fmt.Sprint(cpus), "--kernel", stockkvm.GuestKernel, "--initrd", stockkvm.GuestInitrd,
		"--cmdline", "console=ttyS0 quiet"}
}

func qemuArgv(machine string, cpus int) []string {
	return []string{"qemu-system-x86_64", "-L", qemuShareThere, "-accel", "kvm", "-cpu", "host",
		"-machine", machine, "-smp", fmt.Sprint(cpus), "-m", "192",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", stockkvm.GuestKernel, "-initrd", stockkvm.GuestInitrd,
		"-append", "console=ttyS0 quiet", "-serial", "stdio",
		"-device", "virtio-rng-pci", "-device", "virtio-serial-pci"}
}

// qemuFiles are QEMU of this machine, with its libraries and firmware.
func qemuFiles(t *testing.T) []stockkvm.File {
	t.Helper()
	program, err := exec.LookPath("qemu-system-x86_64")
	require.NoError(t, err)
	files := []stockkvm.File{{Source: program, Target: "/bin/qemu-system-x86_64"}}
	libraries, err := exec.Command("ldd", program).Output()
	require.NoError(t, err)
	for _, found := range regexp.MustCompile(`(/\S+) \(0x`).FindAllStringSubmatch(
		string(libraries), -1) {
		files = append(files, stockkvm.File{Source: found[1], Target: found[1]})
	}
	for _, f := range []string{
		qemuFirmware + "/bios-256k.bin", qemuFirmware + "/bios-microvm.bin",
		qemuShare + "/linuxboot_dma.bin", qemuShare + "/kvmvapic.bin",
	} {
		files = append(files,
			stockkvm.File{Source: f, Target: qemuShareThere + "/" + filepath.Base(f)})
	}
	return files
}

// bootCost is what a boot took from the start of the VMM to the guest's prompt.
type bootCost struct {
	wall, cpu time.Duration // cpu is what the emulation of the host used
	faults    int           // nested page faults that KVM handled
	exits     int           // all exits of the guest to KVM
}

// TestBootTimeTable boots Debian's kernel under vmm and QEMU by turns, in one host, and prints
// tables for docs/results/linux-boot.md. It compares nothing.
func TestBootTimeTable(t *testing.T) {
	host := startHost(t, qemuFiles(t)...)
	requireRun(t.Context(), t, host, "mount -t debugfs debugfs /sys/kernel/debug")
	for _, cpus := range []int{1, 2} {
		costs := map[string][]bootCost{}
		for range bootRounds {
			for _, v := range vmmsUnderTest {
				c := timeBoot(t, host, v, cpus)
				t.Logf("%s, %d vCPUs: %+v", v.name, cpus, c)
				costs[v.name] = append(costs[v.name], c)
			}
		}
		fmt.Println(bootTables(cpus, costs))
	}
}

func timeBoot(t *testing.T, host *stockkvm.Host, v vmmUnderTest, cpus int) bootCost {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	requireRun(ctx, t, host, v.prepare)
	used, err := host.CPUTime()
	require.NoError(t, err)
	started := time.Now()
	var console, stderr heartbeat.Log
	job, err := host.Start(stockkvm.Command{
		Argv: v.argv(cpus), Input: true, Stdout: &console, Stderr: &stderr,
	})
	require.NoError(t, err)
	require.NoError(t, console.WaitText(ctx, prompt), "%s\n%s", console.String(), stderr.String())
	c := bootCost{wall: time.Since(started)}
	now, err := host.CPUTime()
	require.NoError(t, err)
	c.cpu = now - used
	counters := strings.Fields(requireRun(ctx, t, host,
		"cat /sys/kernel/debug/kvm/pf_taken /sys/kernel/debug/kvm/exits"))
	c.faults, _ = strconv.Atoi(counters[0])
	c.exits, _ = strconv.Atoi(counters[1])
	requireRun(ctx, t, host, "kill -9 $(pidof vmm qemu-system-x86_64)")
	_, err = job.Wait(ctx)
	require.NoError(t, err)
	return c
}

// bootTables are the medians: times, with their ratios to QEMU's microvm, and what KVM did.
func bootTables(cpus int, costs map[string][]bootCost) string {
	median := func(name string, of func(bootCost) float64) float64 {
		var all []float64
		for _, c := range costs[name] {
			all = append(all, of(c))
		}
		slices.Sort(all)
		return all[len(all)/2]
	}
	wall := func(c bootCost) float64 { return c.wall.Seconds() }
	cpu := func(c bootCost) float64 { return c.cpu.Seconds() }
	const base = "QEMU microvm"
	var b strings.Builder
	fmt.Fprintf(&b, "%d vCPUs:\n\n", cpus)
	fmt.Fprintln(&b, "| VMM | s | to microvm | CPU s | to microvm |\n|---|---|---|---|---|")
	for _, v := range vmmsUnderTest {
		w, c := median(v.name, wall), median(v.name, cpu)
		fmt.Fprintf(&b, "| %s | %.1f | %.2f | %.1f | %.2f |\n", v.name, w, w/median(base, wall), c,
			c/median(base, cpu))
	}
	fmt.Fprintln(&b, "\n| VMM | nested page faults | other exits |\n|---|---|---|")
	for _, v := range vmmsUnderTest {
		faults := median(v.name, func(c bootCost) float64 { return float64(c.faults) })
		exits := median(v.name, func(c bootCost) float64 { return float64(c.exits - c.faults) })
		fmt.Fprintf(&b, "| %s | %.0f | %.0f |\n", v.name, faults, exits)
	}
	return b.String()
}
