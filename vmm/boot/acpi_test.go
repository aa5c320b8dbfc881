package boot

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/integration/need"
)

// acpiTableAt checks the table with the given signature at an address and returns it without its
// header.
func acpiTableAt(t *testing.T, b []byte, at uint64, signature string) []byte {
	t.Helper()
	p := b[at-acpiTables:]
	p = p[:le.Uint32(p[4:])]
	require.Equal(t, signature, string(p[:4]))
	require.Zero(t, checksum(p), signature)
	return p[acpiHeader:]
}

func TestACPITables(t *testing.T) {
	for _, cpus := range []int{1, 8} {
		b := encodeACPI(cpus)
		require.Less(t, acpiTables+len(b), legacyEnd)
		require.Equal(t, "RSD PTR ", string(b[:8]))
		require.Zero(t, checksum(b[:20]))
		require.Zero(t, checksum(b[:rsdpBytes]))
		xsdt := acpiTableAt(t, b, le.Uint64(b[24:]), "XSDT")
		require.Len(t, xsdt, 3*8)
		checkFADT(t, b, acpiTableAt(t, b, le.Uint64(xsdt), "FACP"))

		madt := acpiTableAt(t, b, le.Uint64(xsdt[8:]), "APIC")
		require.Equal(t, uint32(apicAddress), le.Uint32(madt))
		kinds := make(map[byte]int)
		for e := madt[8:]; len(e) > 0; e = e[e[1]:] {
			if e[0] == madtLAPIC {
				require.Equal(t, byte(kinds[madtLAPIC]), e[3], "APIC id")
			}
			kinds[e[0]]++
		}
		require.Equal(t, map[byte]int{madtLAPIC: cpus, madtIOAPIC: 1, madtNMI: 1}, kinds)

		mcfg := acpiTableAt(t, b, le.Uint64(xsdt[16:]), "MCFG")
		require.Len(t, mcfg, 8+16)
		require.EqualValues(t, ECAMBase, le.Uint64(mcfg[8:]))
		require.Equal(t, make([]byte, 8), mcfg[16:], "segment 0, buses 0 to 0")
	}
}

// checkFADT looks at what hardware-reduced ACPI needs, by offsets of the specification (5.2.9).
func checkFADT(t *testing.T, b, fadt []byte) {
	t.Helper()
	require.Len(t, fadt, 276-acpiHeader)
	f := append(make([]byte, acpiHeader), fadt...)
	code := le.Uint64(f[140:])
	require.Equal(t, code, uint64(le.Uint32(f[40:])), "both addresses of the DSDT")
	require.Equal(t, dsdt[acpiHeader:], acpiTableAt(t, b, code, "DSDT"))
	require.Equal(t, uint16(1<<2|1<<5), le.Uint16(f[109:]), "no VGA, no clock, no 8042")
	flags := le.Uint32(f[112:])
	require.NotZero(t, flags&(1<<20), "hardware-reduced")
	require.NotZero(t, flags&(1<<10), "reset register")
	for at, port := range map[int]uint64{
		116: resetPort, 244: sleepControl, 256: sleepStatus,
	} {
		require.Equal(t, []byte{1, 8, 0, 1}, f[at:at+4], "a port of one byte")
		require.Equal(t, port, le.Uint64(f[at+4:]))
	}
	require.Equal(t, byte(resetValue), f[128])
}

// TestDSDTNamesThePort: the bytecode has the numbers that the machine has.
func TestDSDTNamesThePort(t *testing.T) {
	require.Equal(t, len(dsdt), int(le.Uint32(dsdt[4:])))
	// OperationRegion (REGS, SystemIO, port, 1)
	region := le.AppendUint16([]byte{0x5b, 0x80, 'R', 'E', 'G', 'S', 1, 0x0b}, eventPort)
	require.Contains(t, string(dsdt), string(append(region, 1)))
	// Interrupt (level, active high, exclusive) of one number
	line := []byte{0x89, 6, 0, 1, 1, ACPIEventLine, 0, 0, 0}
	require.Contains(t, string(dsdt), string(line))
	// _S5, a package of 4 that begins with 5
	require.Contains(t, string(dsdt), "_S5_\x12\x07\x04\x0a\x05")
}

// iasl runs ACPI's compiler in a folder of the test. Without the compiler it skips the test.
func iasl(t *testing.T, dir string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("iasl")
	if err != nil {
		need.Skip(t, "iasl is not here: install the package acpica-tools")
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return string(out)
}

// TestDSDTIsCompiled: the bytecode that is embedded is that of dsdt.asl.
func TestDSDTIsCompiled(t *testing.T) {
	dir := t.TempDir()
	source, err := os.ReadFile("dsdt.asl")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "dsdt.asl"), source, 0o600))
	out := iasl(t, dir, "-p", "dsdt", "dsdt.asl")
	require.Contains(t, out, "0 Errors, 0 Warnings, 0 Remarks")
	compiled, err := os.ReadFile(filepath.Join(dir, "dsdt.aml"))
	require.NoError(t, err)
	// The header contains the compiler's version, which also changes the checksum.
	same := func(b []byte) []byte {
		b = bytes.Clone(b)
		b[9] = 0
		clear(b[28:acpiHeader])
		return b
	}
	require.Equal(t, same(compiled), same(dsdt), "go generate ./vmm/boot")
}

// TestTablesDisassemble: ACPI's own disassembler understands each table and finds nothing wrong.
func TestTablesDisassemble(t *testing.T) {
	b := encodeACPI(2)
	xsdt := acpiTableAt(t, b, le.Uint64(b[24:]), "XSDT")
	dir := t.TempDir()
	for name, at := range map[string]uint64{
		"xsdt": le.Uint64(b[24:]), "facp": le.Uint64(xsdt), "apic": le.Uint64(xsdt[8:]),
	} {
		table := b[at-acpiTables:]
		table = table[:le.Uint32(table[4:])]
		require.NoError(t, os.WriteFile(filepath.Join(dir, name+".bin"), table, 0o600))
		iasl(t, dir, "-d", name+".bin")
		text, err := os.ReadFile(filepath.Join(dir, name+".dsl"))
		require.NoError(t, err)
		for _, bad := range []string{"incorrect", "Invalid", "Unknown", "**"} {
			require.NotContains(t, string(text), bad, name)
		}
		if name == "facp" {
			for _, want := range []string{
				"Hardware Reduced (V5) : 1", "Reset Register Supported (V2) : 1",
				"8042 Present on ports 60/64 (V2) : 0", "VGA Not Present (V4) : 1",
			} {
				require.True(t, strings.Contains(string(text), want), "%s in\n%s", want, text)
			}
		}
	}
}
