// Command load keeps a server or its own heap busy inside a guest, checks every answer, and prints
// "workload ready" once it is warm. It ends, with status 1, only when something is wrong.
//
// Once a second it prints a heartbeat as the embedded guest does, which says by the guest's own
// clock what was felt of a move: the longest gap between two answers, two lists of the heap, or two
// lines of a build, and the latencies of a server's clients.
//
//	load redis ADDRESS       GET and SET, keys by a Zipf distribution
//	load memcached ADDRESS   the same
//	load sqlite FILE         transactions on a database, by sqlite's shell
//	load build COMMAND...    a command, again and again, whose lines are its steps
//	load heap                a heap of linked pieces, replaced at random, that Go collects
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// The shape of the load: so many keys, with values of so many bytes, and the exponent of the Zipf
// distribution, by which few keys get most of the writes.
const (
	keys       = 15_000
	valueBytes = 4 << 10
	exponent   = 1.1
)

// dialect are the requests of a server, and what stands around a value in its answer.
type dialect struct {
	set, get func(key int, value []byte) []byte
	stored   string
	found    func(key int) string
}

var dialects = map[string]dialect{
	"redis": {
		set: func(key int, v []byte) []byte {
			name := fmt.Sprintf("key%d", key)
			return fmt.Appendf(nil, "*3\r\n$3\r\nSET\r\n$%d\r\n%s\r\n$%d\r\n%s\r\n", len(name),
				name, len(v), v)
		},
		get: func(key int, _ []byte) []byte {
			name := fmt.Sprintf("key%d", key)
			return fmt.Appendf(nil, "*2\r\n$3\r\nGET\r\n$%d\r\n%s\r\n", len(name), name)
		},
		stored: "+OK\r\n",
		found:  func(int) string { return fmt.Sprintf("$%d\r\n%%s\r\n", valueBytes) },
	},
	"memcached": {
		set: func(key int, v []byte) []byte {
			return fmt.Appendf(nil, "set key%d 0 0 %d\r\n%s\r\n", key, len(v), v)
		},
		get:    func(key int, _ []byte) []byte { return fmt.Appendf(nil, "get key%d\r\n", key) },
		stored: "STORED\r\n",
		found: func(key int) string {
			return fmt.Sprintf("VALUE key%d 0 %d\r\n%%s\r\nEND\r\n", key, valueBytes)
		},
	},
}

func main() {
	if err := work(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func work(args []string) error {
	forEver := func() bool { return true }
	switch {
	case len(args) == 1 && args[0] == "heap":
		return heap(newMeter(lists, printLine), forEver)
	case len(args) == 2 && args[0] == "sqlite":
		s, err := startShell(args[1])
		if err != nil {
			return err
		}
		return sqlite(newMeter(tableRows, printLine), s, forEver)
	case len(args) > 1 && args[0] == "build":
		return build(newMeter(buildLines, printLine), args[1:], forEver)
	case len(args) != 2:
		return errors.New("use redis ADDRESS, memcached ADDRESS, sqlite FILE, build COMMAND or " +
			"heap")
	}
	d, known := dialects[args[0]]
	if !known {
		return fmt.Errorf("%q is unknown", args[0])
	}
	return serveClients(d, args[1])
}

// serveClients asks a server as long as its answers are right.
func serveClients(d dialect, address string) error {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	s := session{
		dialect: d, conn: conn, in: bufio.NewReader(conn), written: make([]uint32, keys),
		meter: newMeter(keys, printLine),
	}
	for key := range keys {
		if err := s.write(key); err != nil {
			return err
		}
	}
	s.meter.ready()
	zipf := rand.NewZipf(rand.New(rand.NewPCG(1, 2)), exponent, 1, keys-1)
	for {
		key := int(zipf.Uint64())
		if err := s.write(key); err != nil {
			return err
		}
		if err := s.check(int(zipf.Uint64())); err != nil {
			return err
		}
	}
}

// session is a connection to a server, how often each key was written, and what that took.
type session struct {
	dialect
	conn    net.Conn
	in      *bufio.Reader
	written []uint32
	meter   *meter
}

// write writes a key's next value.
func (s *session) write(key int) error {
	s.written[key]++
	s.meter.writes++
	return s.ask(s.set(key, value(key, s.written[key])), s.stored)
}

// check reads a key, which must have the value that was written last.
func (s *session) check(key int) error {
	return s.ask(s.get(key, nil), fmt.Sprintf(s.found(key), value(key, s.written[key])))
}

// ask sends a request, whose answer must be that one.
func (s *session) ask(request []byte, want string) error {
	sent := time.Now()
	if _, err := s.conn.Write(request); err != nil {
		return err
	}
	got := make([]byte, len(want))
	for i := range got {
		b, err := s.in.ReadByte()
		if err != nil {
			return fmt.Errorf("an answer ends: %w", err)
		}
		if got[i] = b; b != want[i] {
			return fmt.Errorf("%q is answered by %q", request[:min(len(request), 60)], got[:i+1])
		}
	}
	s.meter.answered(sent)
	return nil
}

// value follows from the key and how often it was written. It is text that compresses to a half.
func value(key int, n uint32) []byte {
	r := rand.NewPCG(uint64(key), uint64(n))
	var b []byte
	for len(b) < valueBytes/2 {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
	}
	return hex.AppendEncode(nil, b)
}
