package boot

// A kernel starts only the processors that it is told of. Without ACPI, all kernels know the
// MultiProcessor Specification (Intel, version 1.4, chapter 4): a table in the firmware's part of
// memory, found by its signature.

const (
	mpTable     = 0xf0000 // within the range that is searched for the signature
	mpPointer   = 16      // bytes of the floating pointer structure
	mpHeader    = 44      // of the configuration table header
	apicAddress = 0xfee00000
	ioapicAddr  = 0xfec00000
	ioapicID    = 0x10 // of its own: vCPUs have 0 to MaxCPUs-1
	isaIRQs     = 16
)

// Kinds of entries and interrupts in the table.
const (
	mpProcessor = 0
	mpBus       = 1
	mpIOAPIC    = 2
	mpInterrupt = 3
	mpLocal     = 4

	mpVectored = 0
	mpNMI      = 1
	mpExternal = 3 // from the PIC
)

// encodeMPTable returns the floating pointer and, right behind it, the table for a
// machine whose ISA interrupts go to the IOAPIC's inputs of the same numbers, as
// KVM's default routing has it.
func encodeMPTable(at uint32, cpus int) []byte {
	var entries []byte
	count := 0
	add := func(e ...byte) {
		entries = append(entries, e...)
		count++
	}
	for id := range cpus {
		flags := byte(1) // enabled
		if id == 0 {
			flags |= 2 // the one that boots
		}
		add(mpProcessor, byte(id), 0x14, flags,
			0, 0, 0, 0, // signature
			1, 2, 0, 0, // features: FPU, APIC
			0, 0, 0, 0, 0, 0, 0, 0)
	}
	add(append([]byte{mpBus, 0}, "ISA   "...)...)
	add(append([]byte{mpIOAPIC, ioapicID, 0x11, 1}, le.AppendUint32(nil, ioapicAddr)...)...)
	for irq := range byte(isaIRQs) {
		add(mpInterrupt, mpVectored, 0, 0, 0, irq, ioapicID, irq)
	}
	add(mpLocal, mpExternal, 0, 0, 0, 0, 0, 0)
	add(mpLocal, mpNMI, 0, 0, 0, 0, 0xff, 1)

	table := make([]byte, mpHeader, mpHeader+len(entries))
	copy(table[0:], "PCMP")
	table[6] = 4 // specification 1.4
	copy(table[8:], "TASKGUIDVMM         ")
	le.PutUint16(table[34:], uint16(count))
	le.PutUint32(table[36:], apicAddress)
	table = append(table, entries...)
	le.PutUint16(table[4:], uint16(len(table)))
	table[7] = checksum(table)

	pointer := make([]byte, mpPointer)
	copy(pointer, "_MP_")
	le.PutUint32(pointer[4:], at+mpPointer)
	pointer[8], pointer[9] = 1, 4 // length in units of 16 bytes, specification
	pointer[10] = checksum(pointer)
	return append(pointer, table...)
}

// checksum is the byte that makes all bytes add up to 0.
func checksum(b []byte) byte {
	var sum byte
	for _, v := range b {
		sum += v
	}
	return -sum
}
