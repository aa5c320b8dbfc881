package wire

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestMessagesSurviveTheWire(t *testing.T) {
	var line bytes.Buffer
	w := NewWriter[Message](&line)
	sent := []Message{
		{Hello: &Hello{Kernel: "6.1", CPU: "EPYC", KVM: "kvm_amd", CPUs: 2}},
		{Job: 3, Out: []byte("half a line\n\x16--- PASS\x00\xff")},
		{Job: 3, Exit: &Exit{Code: -1, Reason: "signal: killed"}},
	}
	for _, e := range sent {
		require.NoError(t, w.Write(e))
	}
	r := NewReader[Message](&line)
	for _, want := range sent {
		got, err := r.Read()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := r.Read()
	require.ErrorIs(t, err, io.EOF)
}

func TestExitHasTheStatusOfAShell(t *testing.T) {
	require.Equal(t, 7, Exit{Code: 7}.Status())
	require.Equal(t, 128+9, Exit{Code: -1, Signal: 9, Reason: "signal: killed"}.Status())
	require.Equal(t, 127, Exit{Code: -1, Reason: "no such file"}.Status())
}

func TestReaderRefusesEndlessLine(t *testing.T) {
	r := NewReader[Message](strings.NewReader(strings.Repeat("x", MaxLine+1)))
	_, err := r.Read()
	require.ErrorIs(t, err, ErrLineTooLong)
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"job":1,"out":"aGVsbG8="}` + "\n"))
	f.Add([]byte(`{"job":1,"exit":{"code":1}}` + "\n{}\n"))
	f.Add([]byte("\x00\n{\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader[Message](bytes.NewReader(data))
		for range len(data) + 1 {
			if _, err := r.Read(); err == io.EOF {
				return
			} else if err != nil && err != io.EOF && strings.Contains(err.Error(), "decode") {
				continue // one bad line does not end the stream
			} else if err != nil {
				return
			}
		}
		t.Fatal("reader returned more messages than there are bytes")
	})
}
