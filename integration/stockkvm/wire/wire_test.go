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
	w := NewWriter[Event](&line)
	sent := []Event{
		{Hello: &Hello{Kernel: "6.1", CPU: "EPYC", KVM: "kvm_amd", CPUs: 2}},
		{Job: 3, Out: []byte("half a line\n\x16--- PASS\x00\xff")},
		{Job: 3, Exit: &Exit{Code: -1, Reason: "signal: killed"}},
	}
	for _, e := range sent {
		require.NoError(t, w.Write(e))
	}
	r := NewReader[Event](&line)
	for _, want := range sent {
		got, err := r.Read()
		require.NoError(t, err)
		require.Equal(t, want, got)
	}
	_, err := r.Read()
	require.ErrorIs(t, err, io.EOF)
}

func TestReaderRefusesEndlessLine(t *testing.T) {
	r := NewReader[Event](strings.NewReader(strings.Repeat("x", MaxLine+1)))
	_, err := r.Read()
	require.ErrorIs(t, err, ErrLineTooLong)
}

func FuzzReader(f *testing.F) {
	f.Add([]byte(`{"job":1,"out":"aGVsbG8="}` + "\n"))
	f.Add([]byte(`{"job":1,"exit":{"code":1}}` + "\n{}\n"))
	f.Add([]byte("\x00\n{\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader[Event](bytes.NewReader(data))
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
