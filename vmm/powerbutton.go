package vmm

import (
	"fmt"

	"taskguide/vmm/device"
	"taskguide/vmm/kvm"
)

// ioapicMasked is a bit in byte 2 of an entry of the IOAPIC's table. It masks the interrupt.
const ioapicMasked = 1 << 0

// PressPowerButton presses the power button if the guest listens: it runs, and has unmasked the
// input of the IOAPIC that the button drives. heard tells whether it did. Whether the guest reacts
// to the button shows only when the machine ends.
func (vm *VM) PressPowerButton() (heard bool, err error) {
	vm.life.RLock()
	defer vm.life.RUnlock()
	button := vm.devices.ACPI
	// A machine that was closed has neither vCPUs nor a KVM.
	if button == nil || !vm.Running() || vm.vcpus == nil {
		return false, nil
	}
	ioapic := kvm.IRQChip{ChipID: chipIOAPIC}
	if err := kvm.GetIRQChip.Do(vm.fd, &ioapic); err != nil {
		return false, fmt.Errorf("ask whether the guest listens to the power button: %w", err)
	}
	if ioapic.Chip[ioapicTable+8*device.ACPIIRQ+2]&ioapicMasked != 0 {
		return false, nil
	}
	button.Press()
	return true, nil
}
