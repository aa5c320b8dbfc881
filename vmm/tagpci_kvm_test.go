package vmm

import (
	"encoding/json"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/memory"
	"taskguide/tagging"
	"taskguide/tagging/abi"
	"taskguide/vmm/state"
)

// Where the guest finds the tag device's RAM.
const (
	slotTags    = 6
	tagsSection = "tagpci"
	testTask    = 77
)

func tagRAM() uint32 { return uint32(barOf(slotTags)) + 0x80000 }

// storeWord is code that stores a word in guest-physical memory.
func storeWord(gpa, v uint32) []byte { return code(0xc7, 0x05, imm32(gpa), imm32(v)) }

// tagInDevice is code that makes page 3 of the device's RAM a tag page with one task, inside a
// segment, and commits it.
func tagInDevice() []byte {
	page := tagRAM() + 3*abi.PageSize
	return code(
		storeWord(page+0x04, abi.PageVersion), storeWord(page+0x0c, abi.PageSlots),
		storeWord(page+0x44, testTask), storeWord(page+0x48, 1),
		storeWord(page+0x60, 0x6b736174), // "task"
		storeWord(page+0x40, abi.SlotUsed), storeWord(page, abi.PageMagic),
		storeWord(abi.MMIOBase+abi.RegPages, 1<<3),
	)
}

// TestTagPagesInDeviceRAM: a guest's stores to the device's RAM need no exit and no dirty log, the
// port sees them, and they move with the device's state.
func TestTagPagesInDeviceRAM(t *testing.T) {
	for _, kind := range []dirtylog.Kind{dirtylog.KindGetDirtyLog, dirtylog.KindRing} {
		t.Run(string(kind), func(t *testing.T) {
			r := newRecorder()
			vm, err := New(Config{
				MemoryBytes: 16 << 20, CPUs: 1, Balloon: BalloonReporting,
				Options: Options{DirtyLog: kind},
			})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, vm.Close()) })
			attach(vm, r)
			loop := code(
				storeWord(tagRAM(), 0x1234), 0xa3, imm32(recorderMMIO), // mov [recorder], eax
			)
			require.NoError(t, vm.Boot(testKernel(code(
				tagInDevice(), loop, 0xeb, 0x100-len(loop)-2, // jmp loop
			)), nil, ""))
			require.NoError(t, vm.Resume())
			// By now the processor has noted in the guest's page tables what it uses.
			r.waitFor(t, 2)
			require.NoError(t, vm.Pause())
			require.NoError(t, vm.Tracker().Start())
			dirty := memory.NewBitmap(vm.RAM().Pages())
			_, err = vm.Tracker().Harvest(dirty) // what came before
			require.NoError(t, err)
			dirty.Reset()
			require.NoError(t, vm.Resume())
			r.waitFor(t, len(r.numbers())+10)
			require.NoError(t, vm.Pause())
			_, err = vm.Tracker().Harvest(dirty)
			require.NoError(t, err)
			require.NoError(t, vm.Tracker().Stop())
			// The kernel has no stack and stores nowhere else.
			require.Zero(t, dirty.Count(), "device RAM is no guest RAM")

			config, err := vm.Config()
			require.NoError(t, err)
			there, err := NewFromConfig(config, Options{})
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, there.Close()) })
			copy(there.RAM().Bytes(), vm.RAM().Bytes())
			data, err := vm.SaveState()
			require.NoError(t, err)
			require.NoError(t, there.LoadState(data))
			want, err := vm.StateDigest()
			require.NoError(t, err)
			digest, err := there.StateDigest()
			require.NoError(t, err)
			require.Equal(t, want, digest)
			require.NoError(t, there.Run(true))
			for _, vm := range []*VM{vm, there} {
				info := vm.Tags().Snapshot()
				require.Len(t, info.Tasks, 1)
				require.EqualValues(t, testTask, info.Tasks[0].ID)
				require.Equal(t, "task", info.Tasks[0].Name)
				require.True(t, info.Tasks[0].Fast && info.Tasks[0].Inside)
				require.Equal(t, 1, info.DevicePages)
				require.Zero(t, info.GuestErrors.Total)
			}
		})
	}
}

// TestTagsOfAClosedMachine: a client may still ask for the tags when the machine's memory is gone.
func TestTagsOfAClosedMachine(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	require.NoError(t, vm.Boot(testKernel(code(tagInDevice(), exitWith(5))), nil, ""))
	require.NoError(t, vm.Resume())
	_, err := vm.Wait()
	require.NoError(t, err)
	require.Equal(t, 1, vm.Tags().Snapshot().DevicePages)
	require.NoError(t, vm.Close())
	require.Len(t, vm.Tags().Snapshot().Tasks, 1, "as it was seen last")
}

// TestGuestSeesNotify: what the host stores in device RAM, the guest loads.
func TestGuestSeesNotify(t *testing.T) {
	r := newRecorder()
	// The guest sees notify before Attach has returned. It leaves its segment only afterwards.
	attached := make(chan struct{})
	r.hook = func(n int) {
		if n == 2 {
			<-attached
		}
	}
	vm := newTestVM(t, 1, nil)
	attach(vm, r)
	require.NoError(t, vm.Boot(testKernel(code(
		tagInDevice(), 0xa3, imm32(recorderMMIO), // mov [recorder], eax
		0x80, 0x3d, imm32(tagRAM()+3*abi.PageSize+8), 1, // 1: cmp byte [notify], 1
		0x75, 0xf7, // jne 1b
		0xa3, imm32(recorderMMIO), // mov [recorder], eax
		storeWord(tagRAM()+3*abi.PageSize+0x48, 0), // depth
		storeWord(abi.MMIOBase+abi.RegExit, testTask),
		exitWith(5),
	)), nil, ""))
	require.NoError(t, vm.Resume())
	r.waitFor(t, 1)
	l := make(closings, 1)
	state := vm.Tags().Attach(tagging.All, l)
	close(attached)
	require.True(t, state.Open)
	require.EqualValues(t, 5, waitEnd(t, vm).Status)
	<-l
	require.False(t, vm.Tags().Gate().Open)
}

// closings is a listener that tells when the gate closes.
type closings chan struct{}

func (closings) GateOpened()         {}
func (c closings) GateClosing() bool { c <- struct{}{}; return false }
func (closings) GateClosed()         {}

// withoutTags returns what an older program, which does not know the function, would announce of a
// machine.
func withoutTags(t *testing.T, config []byte) []byte {
	var c machineConfig
	require.NoError(t, json.Unmarshal(config, &c))
	had := len(c.Sections)
	c.Sections = slices.DeleteFunc(c.Sections, func(k state.Kind) bool {
		return k.Name == tagsSection
	})
	require.Len(t, c.Sections, had-1)
	older, err := json.Marshal(&c)
	require.NoError(t, err)
	return older
}

// TestTagFunctionIsNewer: an older program refuses a machine that has the function, by its name. A
// machine that comes from an older program goes on without it, and can move back.
func TestTagFunctionIsNewer(t *testing.T) {
	vm := newTestVM(t, 1, nil)
	config, err := vm.Config()
	require.NoError(t, err)
	older := slices.DeleteFunc(slices.Clone(reads(vm.devices.Catalog())), func(k state.Kind) bool {
		return k.Name == tagsSection
	})
	_, err = parseConfig(config, older)
	require.ErrorContains(t, err, `unknown section "tagpci"`)

	without, err := NewFromConfig(withoutTags(t, config), Options{})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, without.Close()) })
	back, err := without.Config()
	require.NoError(t, err)
	_, err = parseConfig(back, older)
	require.NoError(t, err)
	r := newRecorder()
	attach(without, r)
	require.NoError(t, without.Boot(testKernel(code(
		tagInDevice(),                                    // there is neither RAM nor the register
		0xa1, imm32(tagRAM()), 0xa3, imm32(recorderMMIO), // mov eax, [RAM]; mov [recorder], eax
		exitWith(1),
	)), nil, ""))
	require.NoError(t, without.Resume())
	require.EqualValues(t, 1, waitEnd(t, without).Status)
	info := without.Tags().Snapshot()
	require.Zero(t, info.DevicePages)
	require.Empty(t, info.Tasks)
	require.EqualValues(t, 1, info.GuestErrors.Page)
}
