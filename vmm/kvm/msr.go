package kvm

import (
	"errors"
	"fmt"
)

// msrBatch is how many MSRs go into one call; KVM takes fewer than 256.
const msrBatch = 255

var errMSRRefused = errors.New("refused")

// Read reads MSRs of a vCPU. It leaves out those that KVM cannot read.
func (t *MSRTable) Read(vcpu FD, indices []uint32) ([]MSREntry, error) {
	values := make([]MSREntry, 0, len(indices))
	for len(indices) > 0 {
		batch := indices[:min(len(indices), msrBatch)]
		t.N = uint32(len(batch))
		for i, index := range batch {
			t.Entries[i] = MSREntry{Index: index}
		}
		// KVM stops at the first MSR that it cannot read and returns how many came before.
		n, err := GetMSRs.Call(vcpu, t)
		if err != nil {
			return nil, err
		}
		values = append(values, t.Entries[:n]...)
		if n < len(batch) {
			n++
		}
		indices = indices[n:]
	}
	return values, nil
}

// Write loads MSRs of a vCPU. It passes each MSR that KVM refuses to refused, and stops if that
// returns an error.
func (t *MSRTable) Write(vcpu FD, values []MSREntry, refused func(MSREntry) error) error {
	for len(values) > 0 {
		batch := values[:min(len(values), msrBatch)]
		t.N = uint32(len(batch))
		copy(t.Entries[:], batch)
		n, err := SetMSRs.Call(vcpu, t)
		if err != nil {
			return err
		}
		if n < len(batch) {
			if err := refused(batch[n]); err != nil {
				return err
			}
			n++
		}
		values = values[n:]
	}
	return nil
}

// Set loads one MSR.
func (t *MSRTable) Set(vcpu FD, index uint32, value uint64) error {
	one := []MSREntry{{Index: index, Data: value}}
	err := t.Write(vcpu, one, func(MSREntry) error { return errMSRRefused })
	if err != nil {
		return fmt.Errorf("set MSR %#x to %#x: %w", index, value, err)
	}
	return nil
}

// CanLoad tells whether KVM reads an MSR of a fresh vCPU and takes its value back.
func (t *MSRTable) CanLoad(vcpu FD, index uint32) bool {
	t.N, t.Entries[0] = 1, MSREntry{Index: index}
	if n, err := GetMSRs.Call(vcpu, t); err != nil || n != 1 {
		return false
	}
	n, err := SetMSRs.Call(vcpu, t)
	return err == nil && n == 1
}
