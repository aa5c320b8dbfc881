package vmm

// The ACPI tables that say what processors and interrupt controllers there are (ACPI
// Specification 6.5, section 5.2): root pointer, table of tables, MADT. There is no
// description of anything else, and no bytecode, so kernels take this and then go on
// as on a machine without ACPI. Kernels that do not know ACPI have the MP table.

const (
	acpiTables = 0xf2000 // within the range that is searched for the signature

	rsdpBytes     = 36
	acpiHeader    = 36
	acpiXSDT      = acpiTables + 64
	acpiMADT      = acpiXSDT + 64
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

// encodeACPI returns the tables for a machine, to be placed at acpiTables.
func encodeACPI(cpus int) []byte {
	b := make([]byte, rsdpBytes)
	copy(b, "RSD PTR ")
	copy(b[9:], acpiOEM)
	b[15] = acpiRevision2
	le.PutUint32(b[20:], rsdpBytes)
	le.PutUint64(b[24:], acpiXSDT)
	b[8] = checksum(b[:20]) // of what version 1 had
	b[32] = checksum(b)

	b = append(b, make([]byte, acpiXSDT-acpiTables-len(b))...)
	b = append(b, acpiTable("XSDT", 1, le.AppendUint64(nil, acpiMADT))...)
	b = append(b, make([]byte, acpiMADT-acpiTables-len(b))...)
	return append(b, acpiTable("APIC", 4, madt(cpus))...)
}

// madt is the content of the multiple APIC description table.
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
