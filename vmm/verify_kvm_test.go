package vmm

import (
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/dirtylog"
	"taskguide/migration"
	"taskguide/vmm/device/devicetest"
	"taskguide/vmm/kvm"
)

// lossyBuilder makes machines of hosts that spoil something of what they load.
type lossyBuilder struct {
	t     *testing.T
	spoil func(vm *VM) error
}

// Build implements [migration.Builder].
func (b *lossyBuilder) Build(config []byte) (migration.Incoming, error) {
	vm, err := NewFromConfig(config, Options{})
	if err != nil {
		return nil, err
	}
	return lossy{vm, b.spoil}, nil
}

// lossy is one of these machines.
type lossy struct {
	*VM
	spoil func(vm *VM) error
}

func (l lossy) LoadState(data []byte) error {
	if err := l.VM.LoadState(data); err != nil {
		return err
	}
	return l.still(func() error { return l.spoil(l.VM) })
}

// TestVerifyFindsALostBit: verification finds a lost bit of an MSR, a device or a controller. The
// guest stays, and the error says which bit it was.
func TestVerifyFindsALostBit(t *testing.T) {
	const lstar, sources, destinations = 0xc0000082, " at the source and ", " at the destination"
	for want, spoil := range map[string]func(vm *VM) error{
		"MSR 0xc0000082 of vCPU 0 is 0x0" + sources + "0x100" + destinations: func(vm *VM) error {
			return vm.vcpus[0].setMSR(lstar, 0x100)
		},
		"regs of vCPU 0 from byte 40 on is ": func(vm *VM) error {
			var regs kvm.Regs
			if err := kvm.GetRegs.Do(vm.vcpus[0].fd, &regs); err != nil {
				return err
			}
			regs.RDI = 0x5555
			return kvm.SetRegs.Do(vm.vcpus[0].fd, &regs)
		},
		"acpi from byte 0 on is 0x00" + sources + "0x01" + destinations: func(vm *VM) error {
			return vm.devices.ACPI.Load(1, []byte{1})
		},
	} {
		t.Run(want, func(t *testing.T) {
			left := statistics{devicetest.NewCounter(devicetest.NoFault)}
			vm := runWith(t, dirtylog.KindGetDirtyLog, left)
			r := migrate(t, vm, &lossyBuilder{t, spoil}, migration.Params{Verify: true})
			require.Equal(t, migration.StatusFailed, r.Status)
			require.Contains(t, r.Error, "verification failed: the states differ: ")
			require.Contains(t, r.Error, want)
			require.NotContains(t, r.Error, ";", "and nothing else")
			require.True(t, vm.Running())
		})
	}
}
