// What a machine has that a guest cannot find by itself. The machine's side is in vmm/device:
// acpi.go, serial.go, pci/host.go.
//
// After a change: go generate ./vmm/boot (iasl, of the package acpica-tools).
DefinitionBlock ("", "DSDT", 2, "TSKGDE", "VMM     ", 1)
{
    // Off: what goes into SLP_TYP of the sleep control register.
    Name (\_S5, Package () { 5, 0, 0, 0 })

    Scope (\_SB)
    {
        Device (COM1)
        {
            Name (_HID, EisaId ("PNP0501"))
            Name (_UID, 1)
            Name (_CRS, ResourceTemplate ()
            {
                IO (Decode16, 0x3F8, 0x3F8, 1, 8)
                Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive) { 4 }
            })
        }

        // The PCI bus. Its devices' registers are where they are: a guest that was told of less
        // room would move them.
        Device (PCI0)
        {
            Name (_HID, EisaId ("PNP0A03"))
            Name (_UID, 0)
            Name (_SEG, 0)
            Name (_BBN, 0)
            Name (_CRS, ResourceTemplate ()
            {
                WordBusNumber (ResourceProducer, MinFixed, MaxFixed, PosDecode, 0, 0, 0, 0, 1)
                IO (Decode16, 0xCF8, 0xCF8, 1, 8)
                DWordMemory (ResourceProducer, PosDecode, MinFixed, MaxFixed, NonCacheable,
                    ReadWrite, 0, 0xC0000000, 0xCFFFFFFF, 0, 0x10000000)
            })
        }

        // Its configuration space, which the MCFG names: Linux uses that only if it is reserved
        // here, too.
        Device (ECAM)
        {
            Name (_HID, EisaId ("PNP0C02"))
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                Memory32Fixed (ReadWrite, 0xE0000000, 0x00100000)
            })
        }

        Device (PWRB)
        {
            Name (_HID, EisaId ("PNP0C0C"))
            Name (_UID, 0)
        }

        // The Generic Event Device: its interrupt says that something has happened, its register
        // what.
        Device (GED)
        {
            Name (_HID, "ACPI0013")
            Name (_UID, 0)
            Name (_CRS, ResourceTemplate ()
            {
                Interrupt (ResourceConsumer, Level, ActiveHigh, Exclusive) { 9 }
            })
            OperationRegion (REGS, SystemIO, 0x603, 1)
            Field (REGS, ByteAcc, NoLock, WriteAsZeros)
            {
                EVTS, 8
            }
            Method (_EVT, 1, Serialized)
            {
                Local0 = EVTS
                EVTS = Local0 // clears what was read, and nothing that came since
                If (Local0 & 1)
                {
                    Notify (PWRB, 0x80)
                }
            }
        }
    }
}
