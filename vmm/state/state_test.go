package state

import (
	"bytes"
	"encoding/binary"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var catalog = Catalog{
	{Name: "regs", Version: 1},
	{Name: "timer", Version: 3, Oldest: 2},
	{Name: "stats", Version: 2, Optional: true},
}

func sample() []Section {
	return []Section{
		{Name: "regs", VCPU: 0, Version: 1, Data: []byte{1, 2, 3}},
		{Name: "regs", VCPU: 1, Version: 1, Data: []byte{4}},
		{Name: "timer", VCPU: Machine, Version: 2, Data: []byte{}},
		{Name: "stats", VCPU: Machine, Version: 2, Optional: true, Data: []byte("many")},
	}
}

func TestRoundTrip(t *testing.T) {
	want := sample()
	got, err := Decode(Encode(want))
	require.NoError(t, err)
	require.Equal(t, want, got)
	got, err = Decode(Encode(nil))
	require.NoError(t, err)
	require.Empty(t, got)
}

// TestEncoding compares the bytes, because other programs read them.
func TestEncoding(t *testing.T) {
	require.Equal(t, "VMSTATE\x00\x02\x00\x00\x00"+
		"timer\x00\x00\x00"+"\xff\xff"+"\x02\x00"+"\x01\x00\x00\x00"+"x"+
		"newstats"+"\x03\x00"+"\x01\x80"+"\x00\x00\x00\x00",
		string(Encode([]Section{
			{Name: "timer", VCPU: Machine, Version: 2, Data: []byte("x")},
			{Name: "newstats", VCPU: 3, Version: 1, Optional: true},
		})))
}

// TestWhoReadsWhat checks the table of doc.go.
func TestWhoReadsWhat(t *testing.T) {
	for _, c := range []struct {
		name    string
		section Kind
		read    bool
		refused string
	}{
		{"known", Kind{Name: "regs", Version: 1}, true, ""},
		{"newest", Kind{Name: "timer", Version: 3}, true, ""},
		{"oldest", Kind{Name: "timer", Version: 2}, true, ""},
		{"known and optional", Kind{Name: "stats", Version: 2, Optional: true}, true, ""},
		{"optional at its writer only", Kind{Name: "regs", Version: 1, Optional: true}, true, ""},
		{
			"too new", Kind{Name: "regs", Version: 2}, false,
			`section "regs" has version 2, this program reads version 1`,
		},
		{
			"too old", Kind{Name: "timer", Version: 1}, false,
			`section "timer" has version 1, this program reads versions 2 to 3`,
		},
		{
			"too new and optional", Kind{Name: "stats", Version: 3, Optional: true}, false,
			`section "stats" has version 3`,
		},
		{"unknown and optional", Kind{Name: "cache", Version: 9, Optional: true}, false, ""},
		{"unknown and mandatory", Kind{Name: "hpet", Version: 1}, false, `unknown section "hpet"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			read, err := catalog.Admit(c.section)
			state := Encode([]Section{{
				Name: c.section.Name, VCPU: Machine,
				Version: c.section.Version, Optional: c.section.Optional,
			}})
			r, errOpen := Open(state, catalog, 1)
			errAnnounced := catalog.AdmitAll([]Kind{c.section})
			if c.refused != "" {
				require.ErrorContains(t, err, c.refused)
				require.ErrorContains(t, errAnnounced, c.refused)
				require.ErrorIs(t, errOpen, ErrInvalid)
				require.ErrorContains(t, errOpen, c.refused)
				return
			}
			require.NoError(t, err)
			require.NoError(t, errAnnounced)
			require.NoError(t, errOpen)
			require.Equal(t, c.read, read)
			_, found := r.Find(Machine, c.section.Name)
			require.Equal(t, c.read, found)
			require.NoError(t, r.Finish())
		})
	}
}

func TestRefusals(t *testing.T) {
	good := Encode(sample())
	edit := func(at int, b ...byte) []byte {
		data := bytes.Clone(good)
		copy(data[at:], b)
		return data
	}
	long := edit(0)
	binary.LittleEndian.PutUint32(long[headerBytes+12:], MaxData+1)
	var many []Section
	for i := range MaxSections + 1 {
		many = append(many, Section{Name: "regs", VCPU: i, Version: 1})
	}
	for _, c := range []struct {
		name string
		data []byte
		want string
	}{
		{"empty", nil, "does not begin as one"},
		{"another format", []byte("QEVM and so on"), "does not begin as one"},
		{"another version", edit(len(magic), Version+1), "version 3, this program knows version 2"},
		{"truncated header", good[:len(good)-4-5], "truncated"},
		{"truncated payload", good[:len(good)-1], "too long"},
		{"absurd length", long, "too long"},
		{"twice", append(bytes.Clone(good), good[headerBytes:]...), `section "regs" twice`},
		{"no name", edit(headerBytes, 0, 0, 0, 0), "name \"\" has 0 bytes"},
		{"bad name", edit(headerBytes+1, '\n'), `name "r\ngs" has more than`},
		{"name with a hole", edit(headerBytes+1, 0), `name "r\x00gs" has more than`},
		{"version 0", edit(headerBytes+10, 0), `section "regs" has versions 0 to 0`},
		{"too many", Encode(many), "more than 1024 sections"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Decode(c.data)
			require.ErrorIs(t, err, ErrInvalid)
			require.ErrorContains(t, err, c.want)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

func TestReader(t *testing.T) {
	r, err := Open(Encode(sample()), catalog, 2)
	require.NoError(t, err)
	require.Equal(t, []byte{4}, r.Take(1, "regs").Data)
	require.Equal(t, []byte{1, 2, 3}, r.Take(0, "regs").Data)
	require.EqualValues(t, 2, r.Take(Machine, "timer").Version)
	_, ok := r.Find(Machine, "regs")
	require.False(t, ok)
	require.NoError(t, r.Err())
	require.ErrorContains(t, r.Finish(), `section "stats" is out of place`)

	_, err = Open(Encode(sample()), catalog, 1)
	require.ErrorContains(t, err, `section "regs" of vCPU 1, but the machine has 1`)

	r, err = Open(Encode(sample()[:2]), catalog, 3)
	require.NoError(t, err)
	r.Take(2, "regs")
	require.ErrorIs(t, r.Err(), ErrInvalid)
	require.ErrorContains(t, r.Err(), `section "regs" of vCPU 2 is missing`)
	r.Take(Machine, "timer")
	require.ErrorContains(t, r.Finish(), "vCPU 2", "the first thing counts")

	r, err = Open(Encode(nil), catalog, 1)
	require.NoError(t, err)
	r.Take(Machine, "timer")
	require.ErrorContains(t, r.Finish(), `section "timer" is missing`)
}

func TestAnnouncements(t *testing.T) {
	require.Empty(t, catalog.Beyond(catalog))
	base := Catalog{{Name: "regs", Version: 1}, {Name: "timer", Version: 2}}
	beyond := catalog.Beyond(base)
	want := []Kind{{Name: "timer", Version: 3}, {Name: "stats", Version: 2, Optional: true}}
	require.Equal(t, want, beyond)
	require.NoError(t, catalog.AdmitAll(beyond))
	require.ErrorContains(t, base.AdmitAll(beyond),
		`section "timer" has version 3, this program reads version 2`)
	require.ErrorContains(t, catalog.AdmitAll(append(beyond, beyond...)), `"timer" announced twice`)
	for says, bad := range map[string][]Kind{
		"1025 sections":   make([]Kind, MaxSections+1),
		"has 9 bytes":     {{Name: strings.Repeat("x", 9), Version: 1, Optional: true}},
		"want 1 to 32767": {{Name: "x", Version: 1 << 15, Optional: true}},
	} {
		require.ErrorContains(t, catalog.AdmitAll(bad), says)
	}
}

func FuzzDecode(f *testing.F) {
	good := Encode(sample())
	f.Add(good)
	f.Add(good[:len(good)-1])
	f.Add([]byte(magic + "\x02\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		sections, err := Decode(data)
		if err != nil {
			require.ErrorIs(t, err, ErrInvalid)
			return
		}
		require.Equal(t, data, Encode(sections), "one state has one encoding")
		if r, err := Open(data, catalog, 2); err == nil {
			r.Take(0, "regs")
			_ = r.Finish()
		}
	})
}
