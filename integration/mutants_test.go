//go:build mutants

package integration

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// edit replaces a piece of a file, which must be there once.
type edit struct{ file, piece, by string }

// mutant is the program without one rule of the handover, and a test that must find that out.
// migration/model_test.go has the same mutations of the protocol.
type mutant struct {
	name  string
	edits []edit
	pkg   string
	test  string
}

// Files that mutants change.
const (
	admissionFile = "migration/admission.go"
	deviceFile    = "vmm/device/virtio/device.go"
	doubtFile     = "migration/peer/doubt.go"
	ownerFile     = "vmm/device/virtio/owner.go"
	runFile       = "vmm/run.go"
)

// The two places at which a machine takes its disks before it runs.
const (
	takesToRun = "if err := vm.TakeDisks(context.Background()); err != nil {\n\t\treturn err\n\t}"
	takesAgain = "return vm.withDisks(context.Background(), vm.resume)"
	takesNot   = "vm.mu.Lock(); defer vm.mu.Unlock(); return vm.resume()"
)

var mutants = []mutant{
	{
		"the destination does not look at its clock before it starts",
		[]edit{{admissionFile, "case m.clock() >= a.until:", "case false:"}},
		"./migration", "TestLastLook",
	},
	{
		"the source may be forced before lifetime and margin are over",
		[]edit{{doubtFile, "if left > 0 {", "if left > maxLifetime {"}},
		"./migration", "TestForce",
	},
	{
		"a fence ends a guest that is starting",
		[]edit{{admissionFile, "o == transport.OutcomePending", "o != transport.OutcomeRunning"}},
		"./migration", "TestLastLook",
	},
	{
		"the destination answers discarded and may still run",
		[]edit{{admissionFile, "a.fenced = true", "return transport.OutcomeDiscarded, true"}},
		"./migration", "TestFence",
	},
	{
		"the source resumes when it hears nothing after commit",
		[]edit{{doubtFile, `return fmt.Errorf("%w (%w): it is kept here`,
			"d.conclude(FateStays)\n" + `return fmt.Errorf("%w (%w): it is kept here`}},
		"./migration", "TestDoubtIsKept",
	},
	{
		"the destination runs without the lock of the disk",
		[]edit{
			{runFile, takesToRun, "_ = vm.TakeDisks(context.Background())"},
			{runFile, takesAgain, takesNot},
		},
		"./vmm", "TestDestinationWithoutTheDisk",
	},
	{
		"a lock that another has counts as taken",
		[]edit{{ownerFile, "return errInUse", "return nil"}},
		"./vmm/device/virtio", "TestOwnership",
	},
	{
		"a paused guest arrives without the lock of its disk",
		[]edit{{runFile, takesToRun, ""}},
		"./vmm", "TestDiskMovesWithItsGuest",
	},
	{
		"the source resumes without the lock of the disk",
		[]edit{{runFile, takesAgain, takesNot}},
		"./vmm", "TestDiskComesBack",
	},
	{
		"a paused guest stays without the lock of its disk",
		[]edit{{"control/process/vm.go", "return vm.TakeDisks(context.Background())",
			"return nil"}},
		"./control/process", "TestGuestWhoseDisksCameLate",
	},
	{
		"the source resumes over a disk that changed meanwhile",
		[]edit{{ownerFile, "case was != nil && *was != now", "case false && *was != now"}},
		"./vmm", "TestDiskMovesWithItsGuest",
	},
	{
		"the source resumes over a block device that changed meanwhile",
		[]edit{{"vmm/device/virtio/imprint.go", "n += v", "n = 0 * v"}},
		"./vmm/device/virtio", "TestBlockDeviceThatChanged",
	},
	{
		"the source does not let go of the disk",
		[]edit{{ownerFile, "return d.lock(lockByte, unix.F_UNLCK)", "return nil"}},
		"./vmm", "TestDiskMovesWithItsGuest",
	},
	{
		"the source lets go of a disk that is not durable",
		[]edit{{ownerFile, "if err = d.sync(); err", "if _ = d.sync(); err"}},
		"./vmm/device/virtio", "TestReleaseThatFails",
	},
	{
		"a drained disk takes requests",
		[]edit{{"vmm/device/virtio/device.go",
			"d.quiet = true\n\tif d.inFlight == 0 {", "if d.inFlight == 0 {"}},
		"./vmm/device/virtio", "TestDrain",
	},
	{
		"the guest does not learn of a sync that failed late",
		[]edit{{ownerFile, "d.owed = err\n", "\n"}},
		"./vmm/device/virtio", "TestLateErrorIsOwed",
	},
	{
		"a write counts as new before it is done",
		[]edit{{"vmm/device/virtio/disk.go",
			"(int, error) {\n\tdefer d.unsynced.Store(true)",
			"(int, error) {\n\td.unsynced.Store(true)"}},
		"./vmm/device/virtio", "TestReleaseSyncsWhatWasWritten",
	},
	{
		"a release whose time is over lets go of the disk",
		[]edit{{ownerFile, "d.owned, context.Cause(ctx)", "d.owned, error(nil)"}},
		"./vmm/device/virtio", "TestReleaseTooLate",
	},
	{
		"a flush does not wait for the report of another sync",
		[]edit{{"vmm/device/virtio/disk.go",
			"d.reports.Lock()\n\tdefer d.reports.Unlock()\n", ""}},
		"./vmm/device/virtio", "TestErrorOfASyncBesideAFlush",
	},
	{
		"a guest that lost its disk may move",
		[]edit{{"vmm/disks.go", "err := ownDisks(ctx, vm.disks)\n", "var err error\n"}},
		"./vmm", "TestDiskMovesWithItsGuest",
	},
	{
		"a page that the host shows as a hole is not read",
		[]edit{{"memory/release.go", "shows(page) && r.readsZero(page)", "shows(page)"}},
		"./memory", "TestHolesDoNotHideContent",
	},
	{
		"who gave up on a disk has it once the host answers",
		[]edit{{ownerFile, "err := context.Cause(ctx)\n", "var err error\n"}},
		"./vmm/device/virtio", "TestOwnThatHangs",
	},
	{
		"a guest without its disks is refused only in the end",
		[]edit{{"migration/setup.go", "if err := s.m.TakeDisks(ctx); err != nil {",
			"if err := error(nil); err != nil {"}},
		"./migration", "TestSourceWithoutItsDisks",
	},
	{
		"nothing is made durable between the drain and the pause",
		[]edit{{"migration/storage.go",
			"return s.presync(ctx) // of what has come since; nothing comes any more",
			"return nil"}},
		"./migration", "TestSyncAfterTheDrain",
	},
	{
		"the devices stay drained after a pause that failed",
		[]edit{{runFile, "vm.Undrain()\n", "\n"}},
		"./vmm", "TestPauseThatFailsLeavesTheDiskAtWork",
	},
	{
		"nobody waits for the requests in flight",
		[]edit{
			{deviceFile, "if d.inFlight == 0 {\n\t\tnone :=", "if true {\n\t\tnone :="},
			{deviceFile, "for d.inFlight > 0 {", "for false {"},
		},
		"./vmm", "TestBusyDiskMovesWithItsReads",
	},
	{
		"a copy of the disk passes for the disk",
		[]edit{{ownerFile, "return d.hasLock(theirs.Proof)", "return nil"}},
		"./vmm/device/virtio", "TestSameDisk",
	},
}

// TestMutantsDie builds each mutant from changed copies of its files, and has the test find it.
func TestMutantsDie(t *testing.T) {
	for _, m := range mutants {
		t.Run(m.name, func(t *testing.T) {
			overlay := m.overlay(t)
			run := exec.CommandContext(t.Context(), "go", "test", "-vet=off", "-count=1",
				"-overlay", overlay, "-run", "^"+m.test+"$", m.pkg)
			run.Dir = ".."
			out, err := run.CombinedOutput()
			require.Error(t, err, "the mutant lives")
			require.Contains(t, string(out), "--- FAIL: "+m.test+" ", "it must be built, and run")
		})
	}
}

// overlay writes the mutant's files, and the list by which the go command takes them for the
// project's.
func (m mutant) overlay(t *testing.T) string {
	dir := t.TempDir()
	root, err := filepath.Abs("..")
	require.NoError(t, err)
	replace := map[string]string{}
	for _, e := range m.edits {
		original := filepath.Join(root, e.file)
		changed, again := replace[original]
		if !again {
			changed = filepath.Join(dir, strings.ReplaceAll(e.file, "/", "_"))
		}
		from := original
		if again {
			from = changed
		}
		text, err := os.ReadFile(from)
		require.NoError(t, err)
		require.Equal(t, 1, strings.Count(string(text), e.piece), "%s: %s", e.file, e.piece)
		text = []byte(strings.Replace(string(text), e.piece, e.by, 1))
		require.NoError(t, os.WriteFile(changed, text, 0o600))
		replace[original] = changed
	}
	list, err := json.Marshal(map[string]any{"Replace": replace})
	require.NoError(t, err)
	path := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(path, list, 0o600))
	return path
}
