package transport

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// Version is the protocol's; both sides must have the same.
const Version = 1

var magic = [8]byte{'T', 'A', 'S', 'K', 'M', 'I', 'G', 'R'}

var (
	// ErrNotOurs: the peer does not speak this protocol at all.
	ErrNotOurs = errors.New("the peer does not speak the migration protocol")
	// ErrVersion: the peer speaks another version of it.
	ErrVersion = errors.New("protocol version differs")
	// ErrRefused: the peer understood and said no; the error's text is its reason.
	ErrRefused = errors.New("refused by the peer")
)

// Purpose is why a connection was made.
type Purpose uint16

const (
	// PurposeMigrate opens a migration (channel 0) or joins it (others).
	PurposeMigrate Purpose = 1
	// PurposeQuery asks how a migration ended whose connection was lost.
	PurposeQuery Purpose = 2
)

// ID names one migration. It is random, so that nobody joins one by accident.
type ID [16]byte

// Hello is what the connecting side says first.
type Hello struct {
	Purpose  Purpose
	Channel  uint16
	Channels uint16
	ID       ID
}

// magic, version, purpose, channel, channels, two reserved bytes, id
const helloSize = 8 + 4 + 2 + 2 + 2 + 2 + 16

// magic, version, code, length of the text
const answerSize = 8 + 4 + 2 + 2

const maxAnswerText = 4096

const (
	answerWelcome = 0
	answerRefused = 1
)

// WriteHello sends h.
func WriteHello(w io.Writer, h Hello) error {
	b := make([]byte, 0, helloSize)
	b = append(b, magic[:]...)
	b = binary.LittleEndian.AppendUint32(b, Version)
	b = binary.LittleEndian.AppendUint16(b, uint16(h.Purpose))
	b = binary.LittleEndian.AppendUint16(b, h.Channel)
	b = binary.LittleEndian.AppendUint16(b, h.Channels)
	b = binary.LittleEndian.AppendUint16(b, 0)
	b = append(b, h.ID[:]...)
	_, err := w.Write(b)
	return err
}

// ReadHello receives a Hello, or ErrNotOurs or ErrVersion.
func ReadHello(r io.Reader) (Hello, error) {
	var b [helloSize]byte
	if err := readPreamble(r, b[:]); err != nil {
		return Hello{}, err
	}
	h := Hello{
		Purpose:  Purpose(binary.LittleEndian.Uint16(b[12:])),
		Channel:  binary.LittleEndian.Uint16(b[14:]),
		Channels: binary.LittleEndian.Uint16(b[16:]),
		ID:       ID(b[20:]),
	}
	if h.Purpose != PurposeMigrate && h.Purpose != PurposeQuery {
		return Hello{}, fmt.Errorf("%w: unknown purpose %d", ErrNotOurs, h.Purpose)
	}
	return h, nil
}

// WriteWelcome accepts a Hello.
func WriteWelcome(w io.Writer) error { return writeAnswer(w, answerWelcome, "") }

// WriteRefusal turns a Hello down and says why.
func WriteRefusal(w io.Writer, reason string) error { return writeAnswer(w, answerRefused, reason) }

func writeAnswer(w io.Writer, code uint16, text string) error {
	text = text[:min(len(text), maxAnswerText)]
	b := make([]byte, 0, answerSize+len(text))
	b = append(b, magic[:]...)
	b = binary.LittleEndian.AppendUint32(b, Version)
	b = binary.LittleEndian.AppendUint16(b, code)
	b = binary.LittleEndian.AppendUint16(b, uint16(len(text)))
	b = append(b, text...)
	_, err := w.Write(b)
	return err
}

// ReadWelcome receives the answer to a Hello: nil, or why it was refused.
func ReadWelcome(r io.Reader) error {
	var b [answerSize]byte
	if err := readPreamble(r, b[:]); err != nil {
		return err
	}
	n := binary.LittleEndian.Uint16(b[14:])
	if n > maxAnswerText {
		return fmt.Errorf("%w: an answer of %d bytes", ErrNotOurs, n)
	}
	text := make([]byte, n)
	if _, err := io.ReadFull(r, text); err != nil {
		return fmt.Errorf("read the destination's answer: %w", err)
	}
	if binary.LittleEndian.Uint16(b[12:]) == answerWelcome {
		return nil
	}
	return fmt.Errorf("%w: %s", ErrRefused, Printable(text))
}

// readPreamble fills b, which begins with magic and version, and checks both
// before it waits for the rest: a peer of another kind may never send more.
func readPreamble(r io.Reader, b []byte) error {
	if _, err := io.ReadFull(r, b[:12]); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("%w: it closed the connection", ErrNotOurs)
		}
		return fmt.Errorf("read the peer's greeting: %w", err)
	}
	if [8]byte(b) != magic {
		return fmt.Errorf("%w: it began with %q", ErrNotOurs, b[:8])
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != Version {
		return fmt.Errorf("%w: here %d, there %d", ErrVersion, Version, v)
	}
	if _, err := io.ReadFull(r, b[12:]); err != nil {
		return fmt.Errorf("read the peer's greeting: %w", err)
	}
	return nil
}

// Printable makes a peer's text fit for a log line or a terminal: of bounded
// length, on one line, and with nothing in it that a terminal obeys.
func Printable(text []byte) string {
	text = text[:min(len(text), maxAnswerText)]
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(text), "?"))
}
