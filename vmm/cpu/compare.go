package cpu

import (
	"errors"
	"fmt"
	"math/bits"
	"strings"
)

// ErrFeatures is returned when a host's processor or KVM lacks something that a guest from
// elsewhere was told it has.
var ErrFeatures = errors.New("this host's CPU cannot carry the guest on")

// ErrNothingInCommon is returned for hosts between which guests cannot move.
var ErrNothingInCommon = errors.New("no machine can move between these hosts")

// advice says what to do about a host that lacks something.
const advice = "start the guest with --cpu and a file of each host that it may move to " +
	"(vmm doctor --cpu)"

// Check returns an error if a host cannot run a guest with table want. have is what [Guest] makes
// of the host. The error names all missing features.
func Check(want, have Table) error {
	if w, h := want.Vendor(), have.Vendor(); w != h {
		return fmt.Errorf("%w: the guest was told that its processor is %q, here it is %q",
			ErrFeatures, w, h)
	}
	if unknown := Beyond(want); len(unknown) > 0 {
		return fmt.Errorf("%w: the guest was told of what this program does not carry: %s: "+
			"use the same program on both hosts", ErrFeatures, strings.Join(unknown, ", "))
	}
	if missing := Missing(want, have); len(missing) > 0 {
		names := strings.Join(missing, ", ")
		return fmt.Errorf("%w: missing here: %s: %s", ErrFeatures, names, advice)
	}
	for i := range want {
		w := &want[i]
		for r := EAX; r <= EDX; r++ {
			for _, word := range wordsOf(w.Function, w.Index, r) {
				if err := word.check(*w.Reg(r), have.value(w.Function, w.Index, r)); err != nil {
					return fmt.Errorf("%w: %w", ErrFeatures, err)
				}
			}
		}
	}
	return nil
}

// Missing names the features that a guest with table want would miss on a host whose guests
// see have.
func Missing(want, have Table) []string {
	var missing []string
	for i := range list {
		w := &list[i]
		if w.rule != features {
			continue
		}
		lost := want.value(w.function, w.index, w.reg) & w.mask
		lost &^= have.value(w.function, w.index, w.reg)
		for ; lost != 0; lost &= lost - 1 {
			missing = append(missing, w.bitName(bits.TrailingZeros32(lost)))
		}
	}
	return missing
}

// check compares one number of two tables.
func (w *word) check(want, have uint32) error {
	shift := bits.TrailingZeros32(w.mask)
	want, have = want&w.mask>>shift, have&w.mask>>shift
	switch {
	case w.rule == atMost && want > have:
		return fmt.Errorf("%s: the guest was told %d, here it is %d: %s",
			w.name, want, have, advice)
	case w.rule == equal && want != have:
		return fmt.Errorf("%s: the guest was told %#x, here it is %#x", w.name, want, have)
	}
	return nil
}

// Common returns what a guest may see that is to move between all of hosts, at least one.
// Descriptions (model, name, caches) are those of the first host. Each host passes [Check] for the
// result. It returns ErrNothingInCommon if there is no table like that.
func Common(hosts ...*Processor) (Table, error) {
	t := Guest(hosts[0].Leaves)
	for _, h := range hosts[1:] {
		other := Guest(h.Leaves)
		if a, b := t.Vendor(), other.Vendor(); a != b {
			return nil, fmt.Errorf("%w: %s is %q, %s is %q: use hosts of one vendor",
				ErrNothingInCommon, hosts[0].Name, a, h.Name, b)
		}
		for i := range t {
			if err := t[i].intersect(other); err != nil {
				return nil, fmt.Errorf("%w: %s and %s differ: %w",
					ErrNothingInCommon, hosts[0].Name, h.Name, err)
			}
		}
		t.dropComponents(other)
		t = settle(t)
	}
	return t, nil
}

// intersect reduces a leaf to what another table also has.
func (l *Leaf) intersect(other Table) error {
	if l.Function == leafXSave && l.Index >= 2 {
		return nil // see dropComponents
	}
	for r := EAX; r <= EDX; r++ {
		mine, theirs := l.Reg(r), other.value(l.Function, l.Index, r)
		for _, w := range wordsOf(l.Function, l.Index, r) {
			switch w.rule {
			case features:
				*mine &^= w.mask &^ theirs
			case atMost, level:
				*mine = *mine&^w.mask | min(*mine&w.mask, theirs&w.mask)
			case equal:
				if err := w.check(*mine, theirs); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// dropComponents removes from XCR0 the components that have another size or place in the other
// table, because saved areas are loaded as they are.
func (t Table) dropComponents(other Table) {
	xcr0 := t.Find(leafXSave, 0)
	for i := range t {
		l := &t[i]
		if l.Function != leafXSave || l.Index < 2 {
			continue
		}
		o := other.Find(leafXSave, l.Index)
		if o == nil || o.EAX != l.EAX || o.EBX != l.EBX || o.ECX != l.ECX {
			xcr0.EAX &^= 1 << l.Index
		}
	}
}
