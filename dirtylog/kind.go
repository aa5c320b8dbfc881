package dirtylog

import (
	"fmt"
	"slices"

	"taskguide/vmm/kvm"
)

// Kind names a way of tracking.
type Kind string

const (
	// Auto stands for the best way that KVM offers.
	Auto Kind = "auto"
	// KindGetDirtyLog is [GetDirtyLog], which every KVM has.
	KindGetDirtyLog Kind = "get-dirty-log"
	// KindManualProtect is [ManualProtect].
	KindManualProtect Kind = "manual-protect"
	// KindRing is [Ring].
	KindRing Kind = "ring"
)

// Kinds lists all kinds except Auto.
var Kinds = []Kind{KindGetDirtyLog, KindManualProtect, KindRing}

// Offered lists the ways of tracking that a KVM has; system is its /dev/kvm.
func Offered(system kvm.FD) []Kind {
	kinds := []Kind{KindGetDirtyLog}
	if system.Check(kvm.CapManualProtect2)&manualProtect == manualProtect {
		kinds = append(kinds, KindManualProtect)
	}
	if system.Check(kvm.CapDirtyLogRing) >= RingBytes {
		kinds = append(kinds, KindRing)
	}
	return kinds
}

// Choose picks a kind out of what KVM offers, and returns an error if want is not offered. Every
// KVM offers KindGetDirtyLog. Auto is for users that protect pages themselves if the tracker leaves
// it to them ([Tracker].OnDemand).
func Choose(want Kind, offered []Kind) (Kind, error) {
	if want == Auto {
		if slices.Contains(offered, KindManualProtect) {
			return KindManualProtect, nil
		}
		return KindGetDirtyLog, nil
	}
	if !slices.Contains(offered, want) {
		return "",
			fmt.Errorf("dirty tracking by %q: this KVM offers %q: choose one of those, or %q",
				want, offered, Auto)
	}
	return want, nil
}
