package state

import "fmt"

// Kind is a kind of section. A machine's configuration announces the kinds of the state to come,
// and a program lists the kinds that it reads.
type Kind struct {
	Name string `json:"name"`
	// Version is the version that is written, and the newest that is read.
	Version  uint16 `json:"version"`
	Optional bool   `json:"optional,omitempty"`
	// Oldest is the oldest version that is read; 0 stands for Version. It is not announced.
	Oldest uint16 `json:"-"`
}

// Check returns an error if a kind's name and versions cannot be written.
func (k Kind) Check() error {
	if k.Name == "" || len(k.Name) > MaxName {
		return fmt.Errorf("section name %q has %d bytes, want 1 to %d",
			k.Name, len(k.Name), MaxName)
	}
	for _, c := range []byte(k.Name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("section name %q has more than a-z, 0-9 and - in it", k.Name)
		}
	}
	if k.Version == 0 || k.Version > MaxVersion || k.Oldest > k.Version {
		return fmt.Errorf("section %q has versions %d to %d, want 1 to %d",
			k.Name, k.Oldest, k.Version, MaxVersion)
	}
	return nil
}

// Range has the versions of a kind that a program reads and writes, for people to look at.
type Range struct {
	Name     string `json:"name"`
	Oldest   uint16 `json:"oldest_version"`
	Version  uint16 `json:"version"`
	Optional bool   `json:"optional,omitempty"`
}

// Range returns the versions of k that are read and written.
func (k Kind) Range() Range {
	oldest := k.Oldest
	if oldest == 0 {
		oldest = k.Version
	}
	return Range{Name: k.Name, Oldest: oldest, Version: k.Version, Optional: k.Optional}
}

// String returns the versions in words.
func (r Range) String() string {
	if r.Oldest == r.Version {
		return fmt.Sprintf("version %d", r.Version)
	}
	return fmt.Sprintf("versions %d to %d", r.Oldest, r.Version)
}

func (r Range) has(version uint16) bool { return r.Oldest <= version && version <= r.Version }

// Catalog lists the kinds of sections that a program reads.
type Catalog []Kind

func (c Catalog) find(name string) (Kind, bool) {
	for _, k := range c {
		if k.Name == name {
			return k, true
		}
	}
	return Kind{}, false
}

// Has tells whether a section of that name is read in any version.
func (c Catalog) Has(name string) bool {
	_, ok := c.find(name)
	return ok
}

// Admit judges a section that is announced or has come. It returns true for a section to read,
// false without an error for one to skip, and an error for one to refuse.
func (c Catalog) Admit(theirs Kind) (read bool, err error) {
	ours, known := c.find(theirs.Name)
	switch {
	case !known && theirs.Optional:
		return false, nil
	case !known:
		return false, fmt.Errorf("unknown section %q, version %d, which the guest cannot do "+
			"without: use a program here that knows it", theirs.Name, theirs.Version)
	case !ours.Range().has(theirs.Version):
		return false, fmt.Errorf("section %q has version %d, this program reads %s",
			theirs.Name, theirs.Version, ours.Range())
	}
	return true, nil
}

// AdmitAll returns an error if a section that a peer announces must be refused.
func (c Catalog) AdmitAll(announced []Kind) error {
	if len(announced) > MaxSections {
		return fmt.Errorf("%d sections announced, want at most %d", len(announced), MaxSections)
	}
	seen := make(map[string]bool)
	for _, k := range announced {
		if err := k.Check(); err != nil {
			return err
		}
		if seen[k.Name] {
			return fmt.Errorf("section %q announced twice", k.Name)
		}
		seen[k.Name] = true
		if _, err := c.Admit(k); err != nil {
			return err
		}
	}
	return nil
}

// Beyond lists the kinds that a reader of base would not expect: other names, or other versions.
func (c Catalog) Beyond(base Catalog) []Kind {
	var beyond []Kind
	for _, k := range c {
		if b, ok := base.find(k.Name); !ok || b.Version != k.Version || b.Optional != k.Optional {
			beyond = append(beyond, Kind{Name: k.Name, Version: k.Version, Optional: k.Optional})
		}
	}
	return beyond
}
