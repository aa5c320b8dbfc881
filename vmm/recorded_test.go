package vmm

import (
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/tagging"
	"taskguide/vmm/device"
)

// record writes the recorded states and configurations anew. Those of a version must not change
// while that version is read.
var record = flag.Bool("record", false, "write testdata/version2 anew")

// recorded reads a file of testdata/version2. With -record it first writes what make returns to the
// file.
func recorded(t *testing.T, name string, make func() []byte) []byte {
	t.Helper()
	file := filepath.Join("testdata", "version2", name)
	if *record {
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, make(), 0o644))
	}
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	return data
}

// TestVersion2IsReadAndWritten: this program reads a state and a configuration that a program of
// version 2 wrote, and writes what needs nothing newer so that a program of version 2 can read it.
func TestVersion2IsReadAndWritten(t *testing.T) {
	want := sampleState(2)
	data := recorded(t, "sample.state", func() []byte { return sampleState(2).encode() })
	got, err := decodeState(data, 2, device.Base())
	require.NoError(t, err)
	require.Equal(t, want, got)
	require.Equal(t, data, want.encode())

	config := sampleConfig()
	data = recorded(t, "sample.config", func() []byte {
		text, err := json.Marshal(&config)
		require.NoError(t, err)
		return text
	})
	gotConfig, err := parseConfig(data, reads(device.Base()))
	require.NoError(t, err)
	require.Equal(t, &config, gotConfig)
	text, err := json.Marshal(&config)
	require.NoError(t, err)
	require.Equal(t, string(data), string(text))
}

// A machine's recorded state: what its guest did to its devices.
const (
	recordedScratch = 0x5a // in the UART's scratch register
	recordedInput   = "hi" // in its FIFO
	recordedTask    = 7    // inside a segment
)

// TestVersion2OfAMachineIsRead: this program reads the state of a machine that ran under version 2.
func TestVersion2OfAMachineIsRead(t *testing.T) {
	data := recorded(t, "machine.state", func() []byte { return recordMachine(t) })
	s, err := decodeState(data, 2, device.Base())
	require.NoError(t, err)
	require.Equal(t, data, s.encode())
	serial := sectionOf(s, "serial").Data
	registers := []byte{0, 0, 0, recordedScratch, 0, 1, 0, byte(len(recordedInput))}
	require.Equal(t, registers, serial[:serialRegisters])
	require.Equal(t, recordedInput, string(serial[serialRegisters:]))
	port := tagging.NewPort(nil)
	require.NoError(t, port.Load(sectionOf(s, "tags").Data))
	tasks := port.Snapshot().Tasks
	require.Len(t, tasks, 1)
	require.Equal(t, uint32(recordedTask), tasks[0].ID)
	require.True(t, tasks[0].Inside)
	require.Greater(t, s.vcpus[0].regs.RIP, uint64(testEntry))
	require.Less(t, s.vcpus[0].regs.RIP, uint64(testEntry+100))
}

// recordMachine runs a guest that uses its devices, and returns its state.
func recordMachine(t *testing.T) []byte {
	r := newRecorder()
	vm := newTestVM(t, 2, nil)
	attach(vm, r)
	require.NoError(t, vm.Boot(testKernel(code(
		0x66, 0xba, 0xff, 0x03, // mov dx, 0x3ff
		0xb0, recordedScratch, // mov al, scratch
		0xee, // out dx, al
		// mov dword [ENTER], task
		0xc7, 0x05, imm32(tagging.MMIOBase+tagging.RegEnter), imm32(recordedTask),
		0xa3, imm32(recorderMMIO), // mov [recorder], eax
		0xeb, 0xfe, // jmp .
	)), nil, ""))
	require.NoError(t, vm.Resume())
	r.waitFor(t, 1)
	require.Equal(t, len(recordedInput), vm.SerialInput([]byte(recordedInput)))
	require.NoError(t, vm.Pause())
	data, err := vm.SaveState()
	require.NoError(t, err)
	return data
}
