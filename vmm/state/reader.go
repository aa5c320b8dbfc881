package state

import "fmt"

// Reader hands out the sections of a state by name, and remembers the first error.
type Reader struct {
	sections map[key]Section
	err      error
}

// Open decodes the state of a machine with the given number of vCPUs, and judges its sections by
// reads. It does not hand out skipped sections.
func Open(data []byte, reads Catalog, vcpus int) (*Reader, error) {
	sections, err := Decode(data)
	if err != nil {
		return nil, err
	}
	r := &Reader{sections: make(map[key]Section)}
	for _, s := range sections {
		if s.VCPU != Machine && s.VCPU >= vcpus {
			return nil, fmt.Errorf("%w: section %q of vCPU %d, but the machine has %d",
				ErrInvalid, s.Name, s.VCPU, vcpus)
		}
		read, err := reads.Admit(Kind{Name: s.Name, Version: s.Version, Optional: s.Optional})
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		if read {
			r.sections[s.key()] = s
		}
	}
	return r, nil
}

// Fail notes an error, unless there was one before.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrInvalid}, args...)...)
	}
}

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// Find takes a section out, and returns false if the state does not have it.
func (r *Reader) Find(vcpu int, name string) (Section, bool) {
	k := key{vcpu, name}
	s, ok := r.sections[k]
	delete(r.sections, k)
	return s, ok
}

// Take takes out a section that must be there; a missing one is an error.
func (r *Reader) Take(vcpu int, name string) Section {
	s, ok := r.Find(vcpu, name)
	switch {
	case ok:
	case vcpu == Machine:
		r.Fail("section %q is missing", name)
	default:
		r.Fail("section %q of vCPU %d is missing", name, vcpu)
	}
	return s
}

// Finish returns the first error. A section that was not taken out is an error too.
func (r *Reader) Finish() error {
	for k := range r.sections {
		r.Fail("section %q is out of place", k.name)
	}
	return r.err
}
