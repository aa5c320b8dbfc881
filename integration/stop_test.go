package integration

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/control"
	"taskguide/tagging"
	"taskguide/vmm/boot/boottest"
)

// Pieces of guests' code, 32 bits.
var (
	// listen unmasks the power button's input of the IOAPIC, and prints L.
	listen = slices.Concat(
		store(0xfec00000, 0x10+2*9), store(0xfec00010, 1<<15|0x49), // IOREGSEL, IOWIN
		out(0x3f8, 'L'))
	// button waits for the button and acknowledges it.
	button = []byte{
		0x66, 0xba, 0x03, 0x06, // mov dx, 0x603
		0xec,       // 1: in al, dx
		0xa8, 0x01, // test al, 1
		0x74, 0xfb, // jz 1b
		0xee, // out dx, al
	}
	off     = out(0x600, 5<<2|1<<5)
	reset   = out(0x602, 1)
	forever = []byte{0xeb, 0xfe} // jmp .
	// untidy writes to 8 MiB of RAM, so that there is much to send.
	untidy = []byte{
		0xbf, 0x00, 0x00, 0x40, 0x00, // mov edi, 4 << 20
		0x89, 0x3f, // 1: mov [edi], edi
		0x81, 0xc7, 0x00, 0x10, 0x00, 0x00, // add edi, 4096
		0x81, 0xff, 0x00, 0x00, 0xc0, 0x00, // cmp edi, 12 << 20
		0x72, 0xf0, // jb 1b
	}
)

// awaitState waits until the register of a migration's state has that value.
func awaitState(s tagging.MigrationState) []byte {
	return []byte{
		0x66, 0xba, 0x10, 0x0d, // mov dx, STATE
		0xed,                // 1: in eax, dx
		0x83, 0xf8, byte(s), // cmp eax, s
		0x75, 0xfa, // jne 1b
	}
}

// store is mov dword [address], v.
func store(address, v uint32) []byte {
	return le.AppendUint32(le.AppendUint32([]byte{0xc7, 0x05}, address), v)
}

// out is mov dx, port; mov al, v; out dx, al.
func out(port uint16, v byte) []byte {
	return append(le.AppendUint16([]byte{0x66, 0xba}, port), 0xb0, v, 0xee)
}

// kernel makes a file with a guest of these pieces of code.
func (b *box) kernel(pieces ...[]byte) string {
	b.t.Helper()
	path := b.path("kernel")
	code := boottest.PVH(slices.Concat(pieces...))
	require.NoError(b.t, os.WriteFile(path, code, 0o600))
	return path
}

// tiny returns the arguments of a VM with that guest.
func tiny(kernel string, args ...string) []string {
	return append([]string{"--memory", "16M", "--kernel", kernel}, args...)
}

// TestGuestSwitchesItselfOff, and resets itself, by the registers that its ACPI tables name.
func TestGuestSwitchesItselfOff(t *testing.T) {
	b := newBox(t)
	r := b.vmm(append([]string{"run"}, tiny(b.kernel(off, forever))...)...)
	require.Equal(t, 0, r.status, r.stderr)
	require.Contains(t, r.stderr, `"ended by the guest, which switched itself off"`)
	r = b.vmm(append([]string{"run"}, tiny(b.kernel(reset, forever))...)...)
	require.Equal(t, 0, r.status, r.stderr)
	require.Contains(t, r.stderr, `"ended by the guest, which asked for a reset"`)
}

// TestGuestIsAskedToShutDown: a guest that listens gets time to shut down.
func TestGuestIsAskedToShutDown(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	p := b.run(g, "vm", tiny(b.kernel(listen, button, out(0x3f8, 'B'), off, forever))...)
	require.NoError(t, g.WaitText(b.ctx, "L"))
	b.ok("stop", "vm")
	require.Equal(t, 0, p.wait())
	require.NoError(t, g.WaitText(b.ctx, "LB"))
	require.Contains(t, p.stderr.String(), "asked the guest to shut down")
	lines := strings.Split(strings.TrimSpace(p.stderr.String()), "\n")
	require.Contains(t, lines[len(lines)-1], `"stopped by vmm stop"`)

	// A guest that has been moved still listens.
	g = &guest{}
	b.run(g, "vm", tiny(b.path("kernel"))...)
	require.NoError(t, g.WaitText(b.ctx, "L"))
	p, to := b.incoming(g, "destination", b.unix("in"))
	b.ok("migrate", "vm", to, "--verify", "--standstill-limit", "0")
	b.signal(p, syscall.SIGTERM)
	require.Equal(t, 0, p.wait())
	require.NoError(t, g.WaitText(b.ctx, "LB"))
	require.Contains(t, p.stderr.String(), `"stopped by SIGTERM"`)
}

// TestGuestThatDoesNotShutDown is ended when its time is over, or when the user loses patience.
func TestGuestThatDoesNotShutDown(t *testing.T) {
	b := newBox(t)
	kernel := b.kernel(listen, forever)
	begin := func(args ...string) *process {
		g := &guest{}
		p := b.run(g, "vm", tiny(kernel, args...)...)
		require.NoError(t, g.WaitText(b.ctx, "L"))
		return p
	}
	stopping := func(p *process) {
		b.until("being stopped", func() bool { return p.vm().Stopping })
	}
	p := begin("--shutdown-timeout", "100ms")
	b.ok("stop", "vm")
	require.Equal(t, 0, p.wait())
	require.Contains(t, p.stderr.String(), "did not shut down within 100ms")

	p = begin("--shutdown-timeout", "1h")
	_, wait := b.background("stop", "vm")
	stopping(p)
	b.ok("stop", "vm", "--now")
	require.Equal(t, 0, p.wait())
	require.Equal(t, 0, wait().status)

	p = begin("--shutdown-timeout", "1h")
	b.signal(p, syscall.SIGTERM)
	stopping(p)
	require.Contains(t, b.refused(1, "pause", "vm"), "being stopped")
	b.signal(p, syscall.SIGTERM)
	require.Equal(t, 0, p.wait())
}

// TestOnResetReboot: the guest starts again in the same VM, until a user stops the VM.
func TestOnResetReboot(t *testing.T) {
	b := newBox(t)
	console := b.path("console")
	p := b.run(&guest{}, "vm", tiny(b.kernel(out(0x3f8, 'R'), reset, forever),
		"--on-reset", "reboot", "--console", "file:"+console)...)
	again := func() bool {
		text, err := os.ReadFile(console)
		return err == nil && strings.HasPrefix(string(text), "RRRRR")
	}
	b.until("again, and nothing before is lost", again)
	var vm control.VM
	require.NoError(t, json.Unmarshal([]byte(b.ok("status", "vm", "--json")), &vm))
	require.Equal(t, p.cmd.Process.Pid, vm.PID)
	b.ok("stop", "vm")
	require.Equal(t, 0, p.wait())
	require.Contains(t, p.stderr.String(), `"stopped by vmm stop"`)
}
