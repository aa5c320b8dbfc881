package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// Type says what a frame means.
type Type uint8

// Frame types; the direction is source to destination (>), or back (<).
const (
	TypeConfig    Type = 1  // > machine configuration, first on channel 0
	TypeAccept    Type = 2  // < the machine was built
	TypePages     Type = 3  // > runs of pages
	TypeFlush     Type = 4  // > no page follows on this channel; < nor on any; arg: attempt
	TypeState     Type = 5  // > device and vCPU state; arg bit 0: verify, bit 1: stays paused
	TypePrepared  Type = 6  // < state loaded; payload: digests if asked
	TypeCommit    Type = 7  // > run
	TypeRunning   Type = 8  // < it runs
	TypeError     Type = 9  // <> the sender gives up; payload: why
	TypeKeepAlive Type = 10 // <> no content: shows that the connection is alive
	TypeOutcome   Type = 11 // < answer to a query; arg: Outcome
	TypeExtents   Type = 12 // > which pages have content: a hint, worth populating
	TypeWaiting   Type = 13 // <> a wait on purpose; arg: how long it may still take, in ms
	TypeRewind    Type = 14 // > a switchover was taken back: pages follow; arg: next attempt
	TypeDigests   Type = 15 // <> digests of RAM and state, with verify, between state and prepared

	lastType = TypeDigests
)

// Outcome is how a migration ended at the destination.
type Outcome uint32

const (
	OutcomePending   Outcome = 0 // not told to run it yet, so it can still be fenced
	OutcomeRunning   Outcome = 1 // the machine runs here
	OutcomeDiscarded Outcome = 2 // it will never run here
	OutcomeStarting  Outcome = 3 // told to run it, and about to: ask again
)

// Encoding is how the data of a pages frame is packed.
type Encoding uint8

const (
	EncodingRaw  Encoding = 0
	EncodingZstd Encoding = 1
)

const (
	headerSize = 16
	entrySize  = 8

	// MaxEntries is the most runs in a pages frame. Together with the header they still fit in one
	// writev (IOV_MAX is 1024).
	MaxEntries = 1000
	// MaxData is the most page content a frame carries, in bytes.
	MaxData = 1 << 20
	// MaxMessage is the longest payload of any other frame, in bytes.
	MaxMessage = 16 << 20
)

// ErrFrame is returned for bytes that are not a valid frame.
var ErrFrame = errors.New("invalid frame")

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Header begins every frame.
type Header struct {
	Type     Type
	Encoding Encoding
	Entries  int    // runs in the table of a pages frame
	Length   int    // bytes of payload, table included
	Arg      uint32 // depends on Type
}

func (h Header) put(b []byte) {
	b[0], b[1] = byte(h.Type), byte(h.Encoding)
	binary.LittleEndian.PutUint16(b[2:], uint16(h.Entries))
	binary.LittleEndian.PutUint32(b[4:], uint32(h.Length))
	binary.LittleEndian.PutUint32(b[8:], h.Arg)
	binary.LittleEndian.PutUint32(b[12:], crc32.Checksum(b[:12], castagnoli))
}

// parseHeader decodes the 16 bytes of b and checks every bound, so that a peer's lie never sizes an
// allocation or a read.
func parseHeader(b []byte) (Header, error) {
	if sum := crc32.Checksum(b[:12], castagnoli); sum != binary.LittleEndian.Uint32(b[12:]) {
		return Header{}, fmt.Errorf("%w: header checksum", ErrFrame)
	}
	h := Header{
		Type:     Type(b[0]),
		Encoding: Encoding(b[1]),
		Entries:  int(binary.LittleEndian.Uint16(b[2:])),
		Length:   int(binary.LittleEndian.Uint32(b[4:])),
		Arg:      binary.LittleEndian.Uint32(b[8:]),
	}
	if h.Type < TypeConfig || h.Type > lastType {
		return Header{}, fmt.Errorf("%w: type %d", ErrFrame, h.Type)
	}
	if h.Type != TypePages {
		if h.Length > MaxMessage || h.Entries != 0 || h.Encoding != EncodingRaw {
			return Header{},
				fmt.Errorf("%w: %d bytes, %d entries, encoding %d in a message of type %d",
					ErrFrame, h.Length, h.Entries, h.Encoding, h.Type)
		}
		return h, nil
	}
	table := h.Entries * entrySize
	switch {
	case h.Entries == 0 || h.Entries > MaxEntries:
		return Header{}, fmt.Errorf("%w: %d runs", ErrFrame, h.Entries)
	case h.Length < table || h.Length-table > MaxData:
		return Header{}, fmt.Errorf("%w: %d bytes for %d runs", ErrFrame, h.Length, h.Entries)
	case h.Encoding > EncodingZstd:
		return Header{}, fmt.Errorf("%w: encoding %d", ErrFrame, h.Encoding)
	case h.Arg > MaxData:
		return Header{}, fmt.Errorf("%w: %d bytes of data", ErrFrame, h.Arg)
	}
	return h, nil
}

// kind is what a run's pages are.
type kind uint8

const (
	kindContent kind = 0 // 4096 bytes each, in the frame's data
	kindZero    kind = 1 // all zero, no data
	kindDelta   kind = 2 // each a length of 2 bytes and a delta
)

// run is an entry of a pages frame's table.
type run struct {
	first, count int
	kind         kind
}

// maxRun is the most pages in one run.
const maxRun = 1<<24 - 1

func (r run) pack() uint64 {
	return uint64(r.first) | uint64(r.count)<<32 | uint64(r.kind)<<56
}

func unpackRun(v uint64) run {
	return run{first: int(v & 0xffffffff), count: int(v >> 32 & maxRun), kind: kind(v >> 56)}
}
