package transport

import (
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"unicode"
)

var magic = [8]byte{'T', 'A', 'S', 'K', 'M', 'I', 'G', 'R'}

var (
	// ErrNotOurs is returned when the peer does not speak this protocol.
	ErrNotOurs = errors.New("the peer does not speak the migration protocol")
	// ErrVersion is returned when the two sides have no version in common.
	ErrVersion = errors.New("protocol version differs")
	// ErrRefused is returned when the peer refused the connection. The error's text is its reason.
	ErrRefused = errors.New("refused by the peer")
)

// Purpose is why a connection was made.
type Purpose uint16

const (
	// PurposeMigrate opens a migration (channel 0) or joins it (others).
	PurposeMigrate Purpose = 1
	// PurposeQuery asks how a migration ended after its connection was lost.
	PurposeQuery Purpose = 2
	// PurposeFence asks the same, and discards a guest that was not told to run yet.
	PurposeFence Purpose = 3
)

// ID names one migration. It is random, so that nobody joins one by accident.
type ID [16]byte

// String returns the ID in hex, as the logs of both ends show it.
func (id ID) String() string { return hex.EncodeToString(id[:]) }

// Hello is what the connecting side says first.
type Hello struct {
	Purpose  Purpose
	Channel  uint16
	Channels uint16
	ID       ID
	// Features are the bits that the connecting side offers.
	Features Features
	// Version is the highest version that both sides speak. ReadHello computes it.
	Version uint32
}

// magic, highest version, purpose, channel, channels, lowest version, id, features
const helloSize = 8 + 4 + 2 + 2 + 2 + 2 + 16 + 8

// magic, version, code, length of the text, features
const answerSize = 8 + 4 + 2 + 2 + 8

const maxAnswerText = 4096

const (
	answerWelcome = 0
	answerRefused = 1
)

// WriteHello sends h, with the versions that this side speaks.
func WriteHello(w io.Writer, h Hello) error {
	b := make([]byte, 0, helloSize)
	b = append(b, magic[:]...)
	b = binary.LittleEndian.AppendUint32(b, Version)
	b = binary.LittleEndian.AppendUint16(b, uint16(h.Purpose))
	b = binary.LittleEndian.AppendUint16(b, h.Channel)
	b = binary.LittleEndian.AppendUint16(b, h.Channels)
	b = binary.LittleEndian.AppendUint16(b, LowestVersion)
	b = append(b, h.ID[:]...)
	b = binary.LittleEndian.AppendUint64(b, uint64(h.Features))
	_, err := w.Write(b)
	return err
}

// ReadHello receives a Hello. It returns ErrNotOurs or ErrVersion for a peer that sends something
// else. After ErrVersion, the peer can still read a refusal.
func ReadHello(r io.Reader) (Hello, error) {
	var b [helloSize]byte
	highest, err := readPreamble(r, b[:], destination)
	if err != nil {
		return Hello{}, err
	}
	// The greeting of an older version is shorter than ours: do not wait for the rest.
	if highest < LowestVersion {
		return Hello{}, noVersion(highest, highest)
	}
	if _, err := io.ReadFull(r, b[preambleSize:]); err != nil {
		return Hello{}, fmt.Errorf("read the peer's greeting: %w", err)
	}
	lowest := uint32(binary.LittleEndian.Uint16(b[18:]))
	if lowest > highest {
		return Hello{}, fmt.Errorf("%w: versions from %d to %d", ErrNotOurs, lowest, highest)
	}
	if lowest > Version {
		return Hello{}, noVersion(lowest, highest)
	}
	h := Hello{
		Purpose:  Purpose(binary.LittleEndian.Uint16(b[12:])),
		Channel:  binary.LittleEndian.Uint16(b[14:]),
		Channels: binary.LittleEndian.Uint16(b[16:]),
		ID:       ID(b[20:]),
		Features: Features(binary.LittleEndian.Uint64(b[36:])),
		Version:  min(highest, Version),
	}
	if h.Purpose < PurposeMigrate || h.Purpose > PurposeFence {
		return Hello{}, fmt.Errorf("%w: unknown purpose %d", ErrNotOurs, h.Purpose)
	}
	return h, nil
}

// noVersion returns the error for a peer whose versions do not overlap with ours.
func noVersion(lowest, highest uint32) error {
	return fmt.Errorf("%w: here %s, there %s", ErrVersion,
		versions(LowestVersion, Version), versions(lowest, highest))
}

// versions formats a range of versions.
func versions(lowest, highest uint32) string {
	if lowest == highest {
		return fmt.Sprint(highest)
	}
	return fmt.Sprintf("%d to %d", lowest, highest)
}

// WriteWelcome accepts a Hello on terms t (see [Hello.Agree]).
func WriteWelcome(w io.Writer, t Terms) error { return writeAnswer(w, answerWelcome, t, "") }

// Refuse turns down a connection whose Hello could not be read, and says why. A peer that does not
// speak TLS where it should can read the answer, too.
func Refuse(nc net.Conn, why error) error {
	var record tls.RecordHeaderError
	if errors.As(why, &record) && record.Conn != nil {
		nc = record.Conn
	}
	return WriteRefusal(nc, why.Error())
}

// WriteRefusal turns a Hello down and says why.
func WriteRefusal(w io.Writer, reason string) error {
	return writeAnswer(w, answerRefused, Terms{Version: Version}, reason)
}

func writeAnswer(w io.Writer, code uint16, t Terms, text string) error {
	text = text[:min(len(text), maxAnswerText)]
	b := make([]byte, 0, answerSize+len(text))
	b = append(b, magic[:]...)
	b = binary.LittleEndian.AppendUint32(b, t.Version)
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(text)))
	b = binary.LittleEndian.AppendUint64(b, uint64(t.Features))
	b = append(b, text...)
	_, err := w.Write(b)
	return err
}

// ReadWelcome receives the answer to a Hello that offered features. It returns the terms, or an
// error that says why the peer refused.
func ReadWelcome(r io.Reader, offered Features) (Terms, error) {
	var b [answerSize]byte
	version, err := readPreamble(r, b[:], source)
	if err != nil {
		return Terms{}, err
	}
	if version < LowestVersion {
		// An older version's answer has another layout.
		return Terms{}, noVersion(version, version)
	}
	if _, err := io.ReadFull(r, b[preambleSize:]); err != nil {
		return Terms{}, fmt.Errorf("read the peer's answer: %w", err)
	}
	n := binary.LittleEndian.Uint16(b[14:])
	if n > maxAnswerText {
		return Terms{}, fmt.Errorf("%w: an answer of %d bytes", ErrNotOurs, n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return Terms{}, fmt.Errorf("read the destination's answer: %w", err)
	}
	switch {
	case binary.LittleEndian.Uint16(b[12:]) != answerWelcome:
		return Terms{}, fmt.Errorf("%w: %s", ErrRefused, Printable(text))
	case version > Version:
		return Terms{}, noVersion(version, version)
	}
	t := Terms{Version: version, Features: Features(binary.LittleEndian.Uint64(b[16:]))}
	if err := t.check(offered); err != nil {
		return Terms{}, err
	}
	return t, nil
}

// How a TLS connection begins (RFC 8446, section 5.1): a handshake record, and its version's
// first byte.
const (
	tlsHandshake = 22
	tlsMajor     = 3
)

// preambleSize is how many bytes of a greeting mean the same in every version.
const preambleSize = 8 + 4

// readPreamble fills the first bytes of b: the magic, which it checks, and the version. It does not
// wait for more, because a peer of another kind may never send it. here is the side that reads.
func readPreamble(r io.Reader, b []byte, here side) (version uint32, err error) {
	if _, err := io.ReadFull(r, b[:preambleSize]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return 0, fmt.Errorf("%w: it closed the connection", ErrNotOurs)
		}
		return 0, fmt.Errorf("read the peer's greeting: %w", explainTLS(err, here))
	}
	if b[0] == tlsHandshake && b[1] == tlsMajor {
		return 0, oneSided(here.other(), ErrNotOurs)
	}
	if [8]byte(b) != magic {
		return 0, fmt.Errorf("%w: it began with %q", ErrNotOurs, b[:8])
	}
	return binary.LittleEndian.Uint32(b[8:]), nil
}

// Printable makes a peer's text safe for a log or a terminal: bounded in length, on one line, and
// without control sequences.
func Printable(text []byte) string {
	text = text[:min(len(text), maxAnswerText)]
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(text), "?"))
}
