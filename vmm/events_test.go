package vmm

import (
	"errors"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"taskguide/vmm/kvm"
)

// TestRoutesAreToldTogether: KVM gets all routes that were prepared in one call, and is asked again
// only for those that change.
func TestRoutesAreToldTogether(t *testing.T) {
	var told [][]kvm.Route
	failed := error(nil)
	r := newRoutes(kvm.Closed)
	r.set = func(all []kvm.Route) error {
		told = append(told, slices.Clone(all))
		return failed
	}
	vm := &VM{routes: r}
	a, b := &message{vm: vm, gsi: 24, route: -1}, &message{vm: vm, gsi: 25, route: -1}
	require.NoError(t, r.settle())
	a.Prepare(apicMessages, 0x41)
	b.Prepare(apicMessages|1<<12, 0x42)
	b.Prepare(0xfed00000, 0x43) // no local APIC is there
	require.Empty(t, told)
	require.NoError(t, r.settle())
	require.Equal(t, [][]kvm.Route{append(kvm.DefaultRoutes(),
		kvm.MessageRoute(24, apicMessages, 0x41), kvm.MessageRoute(25, apicMessages|1<<12, 0x42),
	)}, told)
	require.NoError(t, r.settle())
	require.NoError(t, r.lead(a, apicMessages, 0x41))
	require.NoError(t, r.lead(b, apicMessages|1<<12, 0x42))
	require.Len(t, told, 1)

	require.NoError(t, r.lead(a, apicMessages, 0x51))
	require.Len(t, told, 2)
	b.Prepare(apicMessages, 0x52)
	require.NoError(t, r.lead(a, apicMessages, 0x51))
	require.Len(t, told, 3, "what was prepared is told at the latest now")
	require.Equal(t, kvm.MessageRoute(25, apicMessages, 0x52), told[2][len(told[2])-1])

	failed = errors.New("no memory")
	require.ErrorIs(t, r.lead(a, apicMessages, 0x61), failed)
	failed = nil
	require.NoError(t, r.lead(a, apicMessages, 0x61))
	require.Len(t, told, 5, "KVM does not know it yet")
}
