package dirtylog

import (
	"fmt"
	"slices"
)

// Kind names a way of tracking.
type Kind string

const (
	// Auto is the best that KVM offers.
	Auto Kind = "auto"
	// KindGetDirtyLog is [GetDirtyLog], which every KVM has.
	KindGetDirtyLog Kind = "get-dirty-log"
	// KindManualProtect is [ManualProtect].
	KindManualProtect Kind = "manual-protect"
	// KindRing is [Ring].
	KindRing Kind = "ring"
)

// Kinds lists all of them but Auto.
var Kinds = []Kind{KindGetDirtyLog, KindManualProtect, KindRing}

// Choose picks a kind out of what KVM offers; every KVM offers KindGetDirtyLog. Auto
// is for users that protect pages themselves if the tracker is a [Protector].
func Choose(want Kind, offered []Kind) (Kind, error) {
	if want == Auto {
		if slices.Contains(offered, KindManualProtect) {
			return KindManualProtect, nil
		}
		return KindGetDirtyLog, nil
	}
	if !slices.Contains(offered, want) {
		return "", fmt.Errorf("dirty tracking by %q: this KVM offers %q: choose one of those, or %q", want, offered, Auto)
	}
	return want, nil
}
