package process

import (
	"bytes"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEscapes(t *testing.T) {
	for _, c := range []struct {
		in, want string
		quit     bool
	}{
		{"plain", "plain", false},
		{"a\x01xb", "a", true},
		{"a\x01Xb", "a", true},
		{"\x01\x01", "\x01", false},
		{"\x01\x01x", "\x01x", false},
		{"\x01qz", "z", false},
		{"\x03\x04", "\x03\x04", false},
	} {
		in := input{escapes: true}
		got, quit := in.filter([]byte(c.in))
		require.Equal(t, c.want, string(got), "%q", c.in)
		require.Equal(t, c.quit, quit, "%q", c.in)
	}
	in := input{escapes: true}
	_, quit := in.filter([]byte{1})
	require.False(t, quit)
	_, quit = in.filter([]byte{'x'})
	require.True(t, quit, "in two reads")
	in = input{}
	got, quit := in.filter([]byte("\x01x"))
	require.Equal(t, "\x01x", string(got), "not from a terminal")
	require.False(t, quit)
}

// TestInputWaitsForTheGuest: a guest that reads a byte at a time gets all of them.
func TestInputWaitsForTheGuest(t *testing.T) {
	var got bytes.Buffer
	quits := 0
	in := input{
		escapes: true, deliver: func(p []byte) int { got.WriteByte(p[0]); return 1 },
		quit: func() { quits++ },
	}
	in.copy(strings.NewReader("abc\x01x never"))
	require.Equal(t, "abc", got.String())
	require.Equal(t, 1, quits)
}

// TestQuitOfAGuestThatTakesNothing: Ctrl-A X is obeyed although keys wait for the guest, also the
// second one if the first was refused; and the guest gets the keys when it takes input again.
func TestQuitOfAGuestThatTakesNothing(t *testing.T) {
	keys, typist := io.Pipe()
	quits, takes := make(chan struct{}), make(chan struct{})
	var got bytes.Buffer
	in := input{
		escapes: true,
		deliver: func(p []byte) int {
			<-takes
			got.Write(p)
			return len(p)
		},
		quit: func() { quits <- struct{}{} },
	}
	done := make(chan struct{})
	go func() {
		in.copy(keys)
		close(done)
	}()
	write := func(text string) {
		_, err := typist.Write([]byte(text))
		require.NoError(t, err)
	}
	write("a")
	write("b\x01x")
	<-quits
	write("xc\x01")
	write("x")
	<-quits
	close(takes)
	write("d")
	require.NoError(t, typist.Close())
	<-done
	require.Equal(t, "abxcd", got.String())
}

func TestAbsoluteAddress(t *testing.T) {
	wd, err := os.Getwd()
	require.NoError(t, err)
	for in, want := range map[string]string{
		"tcp:h:1": "tcp:h:1", "unix:/a/b": "unix:/a/b", "unix:b": "unix:" + wd + "/b",
	} {
		got, err := AbsoluteAddress(in)
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err = AbsoluteAddress("b")
	require.Error(t, err)
}
