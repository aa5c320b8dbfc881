package integration

import (
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"taskguide/transport"
	"taskguide/vmm/state"
)

// newer makes a source look like a later version of the program: it is a proxy between the two
// sides that adds to the source's messages.
type newer struct {
	ln net.Listener
	to string

	// What it adds; nil: nothing.
	features transport.Features
	config   func(map[string]json.RawMessage)
	state    func([]state.Section) []state.Section

	configs, pages atomic.Int64 // frames passed on
}

func (n *newer) start(t *testing.T, to string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	n.ln, n.to = ln, strings.TrimPrefix(to, "tcp:")
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			source, err := ln.Accept()
			if err != nil {
				return
			}
			go n.pass(source)
		}
	}()
	return "tcp:" + ln.Addr().String()
}

// pass passes a connection on, until either end closes it.
func (n *newer) pass(source net.Conn) {
	defer source.Close()
	hello, err := transport.ReadHello(source)
	if err != nil {
		return
	}
	destination, err := net.Dial("tcp", n.to)
	if err != nil {
		return
	}
	hello.Features |= n.features
	if transport.WriteHello(destination, hello) != nil {
		return
	}
	go func() {
		n.passFrames(destination, source)
		destination.Close()
	}()
	// The destination's last words may say why it closed the connection.
	io.Copy(source, destination)
}

// passFrames passes the source's frames on.
func (n *newer) passFrames(to io.Writer, from io.Reader) {
	for {
		var header [16]byte
		if _, err := io.ReadFull(from, header[:]); err != nil {
			return
		}
		payload := make([]byte, binary.LittleEndian.Uint32(header[4:]))
		if _, err := io.ReadFull(from, payload); err != nil {
			return
		}
		payload = n.edit(transport.Type(header[0]), payload)
		binary.LittleEndian.PutUint32(header[4:], uint32(len(payload)))
		sum := crc32.Checksum(header[:12], crc32.MakeTable(crc32.Castagnoli))
		binary.LittleEndian.PutUint32(header[12:], sum)
		if _, err := to.Write(append(header[:], payload...)); err != nil {
			return
		}
	}
}

// edit returns a frame's payload with the additions of a newer program.
func (n *newer) edit(typ transport.Type, payload []byte) []byte {
	switch {
	case typ == transport.TypePages:
		n.pages.Add(1)
	case typ == transport.TypeConfig:
		n.configs.Add(1)
		var config map[string]json.RawMessage
		if n.config == nil || json.Unmarshal(payload, &config) != nil {
			break
		}
		n.config(config)
		if edited, err := json.Marshal(config); err == nil {
			return edited
		}
	case typ == transport.TypeState && n.state != nil:
		if sections, err := state.Decode(payload); err == nil {
			return state.Encode(n.state(sections))
		}
	}
	return payload
}

// announcing adds sections to those that the configuration announces.
func announcing(more ...state.Kind) func(map[string]json.RawMessage) {
	return func(config map[string]json.RawMessage) {
		var all []state.Kind
		_ = json.Unmarshal(config["sections"], &all) // there may be none
		config["sections"], _ = json.Marshal(append(all, more...))
	}
}

// TestNewerSourceIsRefused: both ends name a required feature or section that the destination does
// not know, before a page is sent. The guest stays, and can move with what both know.
func TestNewerSourceIsRefused(t *testing.T) {
	for name, test := range map[string]struct {
		source *newer
		says   string
		greets bool // only the greeting takes place
	}{
		"an unknown section": {
			source: &newer{config: announcing(state.Kind{Name: "hpet", Version: 7})},
			says:   `unknown section "hpet", version 7, which the guest cannot do without`,
		},
		"a section's newer version": {
			source: &newer{config: announcing(
				state.Kind{Name: "serial", Version: 9, Optional: true},
			)},
			says: `section "serial" has version 9, this program reads version 1`,
		},
		"a part of the configuration": {
			source: &newer{config: func(config map[string]json.RawMessage) {
				config["numa"] = json.RawMessage(`[1,2]`)
			}},
			says: `unknown field "numa"`,
		},
		"a feature that is required": {
			source: &newer{features: 1<<40 | 1},
			says:   "unknown protocol feature: the source needs bit 40",
			greets: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			g := &guest{}
			source := b.run(g, "source", small...)
			g.alive(b, 1)
			destination, to := b.incoming(g, "destination", "tcp:127.0.0.1:0")
			n := test.source
			stderr := b.refused(1, "migrate", "source", n.start(t, to), "--channels", "1")
			require.Contains(t, stderr, test.says)
			require.Contains(t, stderr, "the guest still runs here")
			destination.says(test.says)
			require.Equal(t, test.greets, n.configs.Load() == 0)
			require.Zero(t, n.pages.Load(), "pages were sent")
			source.untouched()

			b.migrate("source", to)
			require.Equal(t, 0, source.wait())
			g.alive(b, 2)
		})
	}
}

// TestNewerSourceIsUnderstood: a destination leaves out an optional part that it does not know, and
// everything else arrives.
func TestNewerSourceIsUnderstood(t *testing.T) {
	b := newBox(t)
	g := &guest{}
	source := b.run(g, "source", small...)
	g.alive(b, 1)
	destination, to := b.incoming(g, "destination", "tcp:127.0.0.1:0")
	extra := state.Kind{Name: "newstats", Version: 4, Optional: true}
	announce := announcing(extra)
	var sent atomic.Bool
	n := &newer{
		features: 1<<31 | 1,
		config: func(config map[string]json.RawMessage) {
			announce(config)
			config["optional"] = json.RawMessage(`{"numa":[1,2]}`)
		},
		state: func(sections []state.Section) []state.Section {
			sent.Store(true)
			return append(sections, state.Section{
				Name: extra.Name, VCPU: state.Machine, Version: extra.Version, Optional: true,
				Data: []byte("a thousand ticks"),
			})
		},
	}
	report := b.migrate("source", n.start(t, to), "--channels", "1", "--verify")
	requireVerified(t, report)
	require.Equal(t, transport.Spoken().Features, report.Protocol.Features, "what both know")
	require.Equal(t, 0, source.wait())
	require.True(t, sent.Load())
	require.Positive(t, n.pages.Load())
	destination.says("protocol=2 features=")
	destination.awaitState("running")
	g.alive(b, 2)
}

// says waits until a process has logged that text.
func (p *process) says(text string) {
	p.box.t.Helper()
	for !strings.Contains(strings.ReplaceAll(p.stderr.String(), `\"`, `"`), text) {
		select {
		case <-p.box.ctx.Done():
			require.FailNow(p.box.t, "vmm run does not say "+text, "%s: %s", p.name, p.stderr)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
