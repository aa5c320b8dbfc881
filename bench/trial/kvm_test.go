package trial

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/bench/peer/qemu"
	"taskguide/control"
	"taskguide/guestkernel"
	"taskguide/guestkernel/heartbeat"
	"taskguide/integration/need"
	"taskguide/migration"
)

var site Site

func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == handWord {
		if err := serveHand(os.Args[2]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(buildAndRun(m))
}

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "vmm-trial-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	site = Site{Binary: filepath.Join(dir, "vmm"), Kernel: filepath.Join(dir, "guest.elf")}
	build := exec.Command("go", "build", "-buildvcs=false", "-o", site.Binary, "../../cmd/vmm")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build vmm:", err)
		return 1
	}
	if err := os.WriteFile(site.Kernel, guestkernel.ELF, 0o600); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func guided() Spec {
	return Spec{
		ID: "guided",
		Guest: Guest{
			Program: "workload=phased ws=16M hot=256K", Busy: 500 * time.Millisecond,
			Cool: 500 * time.Millisecond, Tag: TagCool, MemoryBytes: 64 << 20, CPUs: 1,
		},
		Offset: 0.2,
		Params: migration.Params{Guidance: migration.GuidanceSwitchover, BitsPerSecond: 1e9},
	}
}

// This test covers a whole trial: the migration is requested in the guest's busy phase, moves it in
// its cool one, and the guest says so itself.
func TestGuidedTrial(t *testing.T) {
	spec := guided()
	spec.Guest.Busy, spec.Offset = 5*time.Second, 0.05 // a request that is late is in time
	r := site.Run(t.Context(), spec)
	require.Empty(t, r.Error)
	require.Equal(t, migration.StatusCompleted, r.Report.Status)
	require.Equal(t, "tags", r.Request.Anchor)
	require.Zero(t, r.LinkBytes)
	require.False(t, r.Request.GateOpen)
	require.NotNil(t, r.Moved)
	require.Contains(t, []string{"1", "exit"}, r.Moved.Inside)
	require.Positive(t, r.GapMS)
	require.NotNil(t, r.Felt)
	longest := time.Duration(r.GapMS * float64(time.Millisecond))
	require.Positive(t, r.Felt.Around.Stalls.AtLeast(longest), "the gap is one of the pauses")
	require.Zero(t, r.Felt.Around.Stalls.AtLeast(4*longest), "and the longest")
	require.Positive(t, r.CPU.Source)
	require.Positive(t, r.CPU.Destination)
	require.LessOrEqual(t, r.CPU.Guest, r.CPU.Source+0.03,
		"a part, but for the ticks in which it is counted")
	kinds := map[string]int{}
	for i, m := range r.Marks {
		kinds[m.Kind]++
		if i > 0 && m.Kind != "tag" && r.Marks[i-1].Kind != "tag" {
			require.GreaterOrEqual(t, m.MS, r.Marks[i-1].MS)
		}
	}
	require.Positive(t, kinds["tag"])
	require.Positive(t, kinds["phase"])
	require.Equal(t, len(r.Report.Rounds), kinds["round"])
}

// TestTrialOfABrokenProgram: a move that another policy decided is none of the program's.
func TestTrialOfABrokenProgram(t *testing.T) {
	program, err := exec.LookPath("false")
	require.NoError(t, err)
	spec := guided()
	spec.Params.Rule = migration.Rule("exec:" + program)
	r := site.Run(t.Context(), spec)
	require.Contains(t, r.Error, errNotObeyed.Error())
	require.Equal(t, migration.StatusCompleted, r.Report.Status, "the guest moved all the same")
}

// TestRecordedTrial: a guest is recorded, then moved, and the simulator has the same move from the
// recording. How close it comes depends on the host, and vmm bench run simulated judges that.
func TestRecordedTrial(t *testing.T) {
	spec := guided()
	spec.Params.Compress = migration.CompressNone
	spec.Record = &Recording{Interval: 10 * time.Millisecond, Length: 15 * time.Second}
	r := site.Run(t.Context(), spec)
	require.Empty(t, r.Error)
	require.Equal(t, "tags", r.Request.Anchor)
	s := r.Simulated
	require.NotNil(t, s)
	require.True(t, s.Move.Moved(), s.Move.Error)
	require.Equal(t, string(migration.GuidanceSwitchover), s.Move.Guidance)
	require.True(t, s.Move.SwitchOpen || s.Move.Forced)
	require.Positive(t, s.Faults)
	require.Equal(t, 64<<20/4096, s.Pages)
	require.EqualValues(t, 1e9, s.Setting.BitsPerSecond)
	// It has the guest's working set to send: 4096 pages, and some that are in use besides.
	require.Greater(t, s.Move.PagesSent, int64(4096))
	require.Less(t, s.Move.BytesWire, 20*int64(64<<20))
	require.Positive(t, s.Oracle.DowntimeMS)
}

func TestLinkCarriesAMigration(t *testing.T) {
	link, err := NewLink(500e6)
	if errors.Is(err, ErrLink) && os.Geteuid() != 0 {
		need.Skip(t, fmt.Sprint("only root may build links, here: ", err))
	}
	require.NoError(t, err)
	defer link.Close()
	shaped := site
	shaped.Link = link
	spec := guided()
	spec.Guest.Program = "workload=idle touch=32M fill=random"
	spec.Guest.Tag = TagNone
	spec.Params.BitsPerSecond = 0
	r := shaped.Run(t.Context(), spec)
	require.Empty(t, r.Error)
	require.GreaterOrEqual(t, r.Report.BytesWire, int64(32<<20))
	require.Greater(t, r.LinkBytes, r.Report.BytesWire, "the kernel counts headers, too")
	require.Less(t, r.LinkBytes, r.Report.BytesWire*11/10)
	// 32 MiB at 500 Mbit/s, less what a bucket holds.
	require.Greater(t, r.Report.TotalMS, 450.0)
}

func TestTrialOfQEMU(t *testing.T) {
	if _, err := exec.LookPath(qemu.Binary); err != nil {
		need.Skip(t, "QEMU, the optional peer, is not installed")
	}
	spec := guided()
	spec.QEMU = &qemu.Migration{Channels: 2}
	r := site.Run(t.Context(), spec)
	require.Empty(t, r.Error)
	require.True(t, r.GapMS > 0 || r.ClockStood(), "%v ms", r.GapMS)
	require.Positive(t, r.Report.TotalMS)
	require.Positive(t, r.CPU.Source)
	require.LessOrEqual(t, r.CPU.Guest, r.CPU.Source+0.03,
		"a part, but for the ticks in which it is counted")
}

// A guest with a disk moves to a host that opens the same file, and says how fast the disk is.
func TestTrialsOfADisk(t *testing.T) {
	_, err := exec.LookPath(qemu.Binary)
	for name, peer := range map[string]*qemu.Migration{"vmm": nil, "QEMU": {}} {
		t.Run(name, func(t *testing.T) {
			if peer != nil && err != nil {
				need.Skip(t, "QEMU, the optional peer, is not installed")
			}
			r := site.Run(t.Context(), Spec{
				ID: "disk", QEMU: peer, Guest: Guest{
					Program: "workload=disk ws=1M", MemoryBytes: 64 << 20, DiskBytes: 1 << 20,
				},
			})
			require.Empty(t, r.Error)
			require.NotNil(t, r.Disk)
			require.Positive(t, r.Disk.BytesPerS)
			require.Positive(t, r.Disk.P50)
			require.GreaterOrEqual(t, r.Disk.P99, r.Disk.P50)
		})
	}
}

// A guest with a network card moves, and says how fast the card is.
func TestTrialsOfACard(t *testing.T) {
	_, err := exec.LookPath(qemu.Binary)
	for name, peer := range map[string]*qemu.Migration{"vmm": nil, "QEMU": {}} {
		t.Run(name, func(t *testing.T) {
			if peer != nil && err != nil {
				need.Skip(t, "QEMU, the optional peer, is not installed")
			}
			r := site.Run(t.Context(), Spec{
				ID: "card", QEMU: peer,
				Guest: Guest{Program: "workload=net", MemoryBytes: 64 << 20, Card: true},
			})
			require.Empty(t, r.Error)
			require.NotNil(t, r.Disk)
			require.Positive(t, r.Disk.BytesPerS)
			require.Positive(t, r.Disk.P50)
		})
	}
}

// The error of a destination that cannot start comes at once, with its own words.
func TestDestinationThatCannotStart(t *testing.T) {
	var log heartbeat.Log
	never := make(chan struct{})
	defer close(never)
	p, err := startVMM(site.Binary, t.TempDir(), "d", Side{}, &log, never,
		"--incoming", "tcp:nowhere")
	require.NoError(t, err)
	defer p.end()
	_, err = p.await(t.Context(), "listening", func(control.VM) bool { return false })
	require.ErrorContains(t, err, "has ended")
	require.ErrorContains(t, err, "nowhere")
}

func TestVoidTrialSaysWhy(t *testing.T) {
	spec := guided()
	spec.Guest.Program = "workload=phased ws=nonsense"
	r := site.Run(t.Context(), spec)
	require.Contains(t, r.Error, "source")
	require.NotContains(t, r.Error, "\n")
}
