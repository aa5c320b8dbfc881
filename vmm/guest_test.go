package vmm

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/boot/boottest"
	"taskguide/vmm/device"
)

// Guests for tests are a few instructions of 32-bit code each, written down as bytes and entered by
// PVH at testEntry. They need no assembler; a comment says what each instruction is.
const testEntry = boottest.Entry

// testKernel wraps code in an ELF64 file with a PVH note.
func testKernel(code []byte) []byte { return boottest.PVH(code) }

// code joins pieces of machine code: bytes and slices of bytes.
func code(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case []byte:
			b = append(b, p...)
		case int:
			b = append(b, byte(p))
		case rune:
			b = append(b, byte(p))
		case string:
			b = append(b, p...)
		default:
			panic(fmt.Sprintf("code has a %T in it", p))
		}
	}
	return b
}

// imm32 is a little-endian immediate operand.
func imm32(v uint32) []byte { return le.AppendUint32(nil, v) }

// emit is code that sends a text to COM1, by rep outsb.
func emit(text string) []byte {
	// It calls past the text, so that the text's address is on the stack. PVH does not set ESP, so
	// it is set first.
	return code(
		0xbc, imm32(0x9000), // mov esp, 0x9000
		0xe8, imm32(uint32(len(text))), // call past the text
		text,
		0x5e,                           // pop esi
		0xb9, imm32(uint32(len(text))), // mov ecx, len
		0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
		0xfc,       // cld
		0xf3, 0x6e, // rep outsb
	)
}

// exitWith is code that ends the machine with a status.
func exitWith(status byte) []byte {
	return code(0xb0, int(status), 0xe6, device.PortExit) // mov al, status; out 0xf4, al
}

// syncBuffer is a buffer for a console.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

const testTimeout = 60 * time.Second

// newTestVM makes a machine of 16 MiB that is closed at the end of the test.
func newTestVM(t testing.TB, cpus int, console *syncBuffer) *VM {
	t.Helper()
	cfg := Config{MemoryBytes: 16 << 20, CPUs: cpus}
	if console != nil {
		cfg.Console = console
	}
	vm, err := New(cfg)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, vm.Close()) })
	return vm
}

// waitEnd waits for the machine to end.
func waitEnd(t testing.TB, vm *VM) Exit {
	t.Helper()
	select {
	case <-vm.Done():
	case <-time.After(testTimeout):
		require.Fail(t, "the machine did not end")
	}
	exit, err := vm.Wait()
	require.NoError(t, err)
	return exit
}
