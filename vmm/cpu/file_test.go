package cpu

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestFileRoundTrip(t *testing.T) {
	for name, h := range recorded(t) {
		data, err := h.Encode()
		require.NoError(t, err)
		again, err := Decode(h.Name, data)
		require.NoError(t, err, name)
		require.Equal(t, h, again)
	}
}

func TestFileRefusals(t *testing.T) {
	good := `{"version":1,"leaves":[{"leaf":"0x0"},{"leaf":"0x1","ecx":"0x80000000"}]}`
	_, err := Decode("a.json", []byte(good))
	require.NoError(t, err)
	for _, c := range []struct{ name, data, want string }{
		{"empty", "", "EOF"},
		{"not JSON", "\x7fELF", "invalid character"},
		{"another kind of JSON", `{"kind":"amd"}`, `unknown field "kind"`},
		{"version", strings.Replace(good, `"version":1`, `"version":2`, 1), "version 2, this"},
		{"no leaves", `{"version":1}`, "0 leaves, want 1 to 256"},
		{"many", strings.Replace(good, `[`, `[`+strings.Repeat(`{},`, 256), 1), "258 leaves"},
		{"twice", strings.Replace(good, `"0x1"`, `"0x0"`, 1), "leaf 0x0.0 twice"},
		{"no leaf 1", strings.Replace(good, `"0x1"`, `"0x2"`, 1), "no leaf 0x0 or no leaf 0x1"},
		{"decimal", strings.Replace(good, `"0x80000000"`, `"5"`, 1), `"5" is no number of 32 bits`},
		{"a number", strings.Replace(good, `"0x80000000"`, `5`, 1), "cannot unmarshal number"},
		{"too large", strings.Replace(good, `"0x80000000"`, `"0x100000000"`, 1), "of 32 bits"},
		{"two objects", good + "{}", "something follows"},
		{"huge", good + strings.Repeat(" ", MaxFileBytes), "more than 1048576 bytes"},
	} {
		_, err := Decode("a.json", []byte(c.data))
		require.ErrorIs(t, err, ErrFile, c.name)
		require.ErrorContains(t, err, "a.json: ", c.name)
		require.ErrorContains(t, err, c.want, c.name)
		require.NotContains(t, err.Error(), "\n", c.name)
	}
}

// FuzzDecode: whatever is accepted survives being written and read, and makes a machine whose guest
// sees nothing beyond the list.
func FuzzDecode(f *testing.F) {
	for _, h := range recorded(f) {
		data, err := h.Encode()
		require.NoError(f, err)
		f.Add(data)
	}
	f.Add([]byte(`{"version":1,"leaves":[{"leaf":"0x0"},{"leaf":"0x1"},` +
		`{"leaf":"0xd","eax":"0xffffffff"},` +
		`{"leaf":"0xd","subleaf":"0x9","eax":"0xffffffff","ebx":"0xffffffff"}]}`))
	other := recorded(f)["amd-genoa"]
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := Decode("fuzz", data)
		if err != nil {
			require.ErrorIs(t, err, ErrFile)
			return
		}
		written, err := h.Encode()
		require.NoError(t, err)
		again, err := Decode("fuzz", written)
		require.NoError(t, err)
		require.Equal(t, h, again)
		require.Empty(t, Beyond(Machine(Guest(h.Leaves), 8, 1)))
		table, err := Common(h, other)
		if err != nil {
			require.ErrorIs(t, err, ErrNothingInCommon)
			return
		}
		require.NoError(t, Check(table, Guest(h.Leaves)))
		require.NoError(t, Check(table, Guest(other.Leaves)))
	})
}
