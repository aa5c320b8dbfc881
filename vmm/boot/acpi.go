package boot

import _ "embed"

// The ACPI tables (ACPI Specification 6.5, chapter 5) describe what a guest cannot find by itself:
//
//	RSDP ──► XSDT ──► FADT ──► DSDT    devices, in bytecode: dsdt.asl
//	              ├─► MADT             processors and interrupt controllers
//	              └─► MCFG             where the PCI bus has its configuration space
//
// ACPI is hardware-reduced here: there is no SMI, no power management timer and no fixed event, and
// Linux assumes no PIT and no PIC. What remains are the registers of device.ACPI, which the FADT
// names, and the devices of the DSDT. A kernel that does not know ACPI has the MP table.

//go:generate iasl -p dsdt dsdt.asl

// dsdt is dsdt.asl, compiled.
//
//go:embed dsdt.aml
var dsdt []byte

// Package device has the hardware that the tables describe; a test of package vmm compares the
// numbers.
const (
	// ACPIPorts is where the registers begin.
	ACPIPorts = 0x600
	// ACPIEventLine is the IOAPIC's input on which the Generic Event Device interrupts.
	ACPIEventLine = 9
	// ECAMBase is the address of the PCI bus's configuration space, and ECAMBytes its size. The
	// only bus is number 0.
	ECAMBase  = 0xe0000000
	ECAMBytes = 1 << 20

	sleepControl = ACPIPorts + 0
	sleepStatus  = ACPIPorts + 1
	resetPort    = ACPIPorts + 2
	eventPort    = ACPIPorts + 3 // in dsdt.asl
	resetValue   = 1
)

const (
	acpiTables = 0xf2000 // within the range that is searched for the signature
	acpiAlign  = 16

	rsdpBytes     = 36
	acpiHeader    = 36
	madtLAPIC     = 0
	madtIOAPIC    = 1
	madtNMI       = 4
	madtHasPIC    = 1
	madtEnabled   = 1
	madtAllCPUs   = 0xff
	acpiOEM       = "TSKGDE"
	acpiOEMTable  = "VMM     "
	acpiCreator   = "VMM "
	acpiRevision2 = 2
)

// Fields of the FADT by offset, and their values.
const (
	fadtRevision     = 6
	fadtBytes        = 276
	fadtDSDT         = 40
	fadtBootFlags    = 109
	fadtFlags        = 112
	fadtReset        = 116
	fadtResetValue   = 128
	fadtXDSDT        = 140
	fadtSleepControl = 244
	fadtSleepStatus  = 256

	// Boot flags: no VGA, no CMOS clock. Without 1<<1, no keyboard controller either.
	bootNoVGA = 1 << 2
	bootNoRTC = 1 << 5

	flagWBINVD     = 1 << 0 // works
	flagC1         = 1 << 2 // on all processors
	flagNoPower    = 1 << 4 // the power button is none of the fixed hardware
	flagNoSleep    = 1 << 5 // nor is a sleep button
	flagNoRTCWake  = 1 << 6
	flagReset      = 1 << 10 // there is a reset register
	flagHeadless   = 1 << 12
	flagReduced    = 1 << 20 // hardware-reduced
	fadtFlagsValue = flagWBINVD | flagC1 | flagNoPower | flagNoSleep | flagNoRTCWake |
		flagReset | flagHeadless | flagReduced
)

// encodeACPI returns the tables for a machine, to be placed at acpiTables.
func encodeACPI(cpus int) []byte {
	b := make([]byte, rsdpBytes)
	// put appends a table and returns its address.
	put := func(table []byte) uint64 {
		for len(b)%acpiAlign != 0 {
			b = append(b, 0)
		}
		at := acpiTables + uint64(len(b))
		b = append(b, table...)
		return at
	}
	code := put(dsdt)
	xsdt := le.AppendUint64(nil, put(acpiTable("FACP", fadtRevision, fadt(code))))
	xsdt = le.AppendUint64(xsdt, put(acpiTable("APIC", 4, madt(cpus))))
	xsdt = le.AppendUint64(xsdt, put(acpiTable("MCFG", 1, mcfg())))
	root := put(acpiTable("XSDT", 1, xsdt))

	copy(b, "RSD PTR ")
	copy(b[9:], acpiOEM)
	b[15] = acpiRevision2
	le.PutUint32(b[20:], rsdpBytes)
	le.PutUint64(b[24:], root)
	b[8] = checksum(b[:20]) // over the fields of version 1
	b[32] = checksum(b[:rsdpBytes])
	return b
}

// fadt returns the content of the fixed ACPI description table.
func fadt(code uint64) []byte {
	f := make([]byte, fadtBytes)
	le.PutUint32(f[fadtDSDT:], uint32(code))
	le.PutUint16(f[fadtBootFlags:], bootNoVGA|bootNoRTC)
	le.PutUint32(f[fadtFlags:], fadtFlagsValue)
	putPort(f[fadtReset:], resetPort)
	f[fadtResetValue] = resetValue
	le.PutUint64(f[fadtXDSDT:], code)
	// Linux switches a machine off by ACPI only if both registers are there.
	putPort(f[fadtSleepControl:], sleepControl)
	putPort(f[fadtSleepStatus:], sleepStatus)
	return f[acpiHeader:]
}

// putPort writes a generic address structure: an I/O port of one byte.
func putPort(b []byte, port uint64) {
	const ports, oneByte = 1, 1
	b[0], b[1], b[2], b[3] = ports, 8, 0, oneByte
	le.PutUint64(b[4:], port)
}

// madt returns the content of the multiple APIC description table.
func madt(cpus int) []byte {
	m := le.AppendUint32(nil, apicAddress)
	m = le.AppendUint32(m, madtHasPIC)
	for id := range byte(cpus) {
		m = append(m, madtLAPIC, 8, id, id)
		m = le.AppendUint32(m, madtEnabled)
	}
	m = append(m, madtIOAPIC, 12, ioapicID, 0)
	m = le.AppendUint32(m, ioapicAddr)
	m = le.AppendUint32(m, 0) // first global interrupt
	return append(m, madtNMI, 6, madtAllCPUs, 0, 0, 1)
}

// mcfg returns the content of the table of PCI configuration spaces.
func mcfg() []byte {
	const firstBus, lastBus = 0, 0
	m := make([]byte, 8)
	m = le.AppendUint64(m, ECAMBase)
	m = le.AppendUint16(m, 0) // segment
	return append(m, firstBus, lastBus, 0, 0, 0, 0)
}

// acpiTable puts the common header before a table's content.
func acpiTable(signature string, revision byte, content []byte) []byte {
	t := make([]byte, acpiHeader)
	copy(t, signature)
	le.PutUint32(t[4:], uint32(acpiHeader+len(content)))
	t[8] = revision
	copy(t[10:], acpiOEM)
	copy(t[16:], acpiOEMTable)
	le.PutUint32(t[24:], 1)
	copy(t[28:], acpiCreator)
	le.PutUint32(t[32:], 1)
	t = append(t, content...)
	t[9] = checksum(t)
	return t
}
