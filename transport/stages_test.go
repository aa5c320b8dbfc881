package transport

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/memory"
)

// sink is a connection that takes everything at once.
type sink struct {
	net.Conn
	w io.Writer
}

func (c sink) Write(b []byte) (int, error)        { return c.w.Write(b) }
func (c sink) SetWriteDeadline(t time.Time) error { return nil }

// stages are the ways to encode content, over what compresses and what does not.
var stages = []struct {
	name    string
	packing Packing
	random  bool
}{
	{"raw", PackRaw, true},
	{"fast, compressible", PackFast, false},
	{"fast, incompressible", PackFast, true},
	{"small, compressible", PackSmall, false},
	{"small, incompressible", PackSmall, true},
}

// stageRAM is RAM whose pages all have content.
func stageRAM(tb testing.TB, random bool) *memory.RAM {
	ram := newRAM(tb)
	if random {
		fill(rand.New(rand.NewPCG(5, 6)), ram.Bytes())
		return ram
	}
	for p := range ram.Pages() {
		page := ram.Page(p)
		for i := range page {
			page[i] = byte(i/8 + p)
		}
	}
	return ram
}

// sendAllOf packs all of RAM.
func sendAllOf(tb testing.TB, s *Sender, ram *memory.RAM) {
	if err := s.Content(context.Background(), 0, ram.Bytes()); err != nil {
		tb.Fatal(err)
	}
	if err := s.Flush(context.Background()); err != nil {
		tb.Fatal(err)
	}
}

// BenchmarkEncode packs frames for a link that costs nothing.
func BenchmarkEncode(b *testing.B) {
	for _, st := range stages {
		b.Run(st.name, func(b *testing.B) {
			ram := stageRAM(b, st.random)
			s := NewSender(NewConn(sink{w: io.Discard}), nil)
			require.NoError(b, s.SetPacking(context.Background(), st.packing))
			sendAllOf(b, s, ram)
			b.SetBytes(ram.Size())
			b.ReportAllocs()
			for b.Loop() {
				sendAllOf(b, s, ram)
			}
		})
	}
}

// BenchmarkApply receives frames that are there already.
func BenchmarkApply(b *testing.B) {
	for _, st := range stages {
		b.Run(st.name, func(b *testing.B) {
			from, to := stageRAM(b, st.random), newRAM(b)
			var frames bytes.Buffer
			s := NewSender(NewConn(sink{w: &frames}), nil)
			require.NoError(b, s.SetPacking(context.Background(), st.packing))
			sendAllOf(b, s, from)
			stream := bytes.NewReader(frames.Bytes())
			c := NewConn(replay{r: stream})
			r := NewReceivers([]*Conn{c}, to)[0]
			b.SetBytes(from.Size())
			b.ReportAllocs()
			for b.Loop() {
				stream.Reset(frames.Bytes())
				for stream.Len() > 0 {
					h, err := c.Next()
					if err == nil {
						err = r.Apply(h)
					}
					if err != nil {
						b.Fatal(err)
					}
				}
			}
			require.True(b, bytes.Equal(from.Bytes(), to.Bytes()))
		})
	}
}
