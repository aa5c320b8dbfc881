// Command holder stands between the two ends of a migration of one channel, and holds back one
// frame, with all that follows it in that direction. It says "held." then, and waits for a line on
// its standard input: "pass" passes everything, "cut" ends the connection.
//
//	holder LISTEN TO forth|back TYPE
//
// TYPE is the number of a frame's type. Later connections, by which a source asks what became of
// its guest, pass as they are.
package main

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strconv"
	"strings"
)

// The lengths of the two greetings, and of a frame's header (docs/protocol.md).
const (
	hello   = 44
	welcome = 24
	header  = 16
)

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: holder LISTEN TO forth|back TYPE")
	}
	kind, err := strconv.ParseUint(os.Args[4], 10, 8)
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("listening.")
	for first := true; ; first = false {
		in, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		out, err := net.Dial("tcp", os.Args[2])
		if err != nil {
			in.Close()
			continue
		}
		forth, back := plain, plain
		if first && os.Args[3] == "forth" {
			forth = holding(hello, byte(kind))
		} else if first {
			back = holding(welcome, byte(kind))
		}
		go pass(forth, out, in)
		go pass(back, in, out)
	}
}

// way passes what one end sends to the other.
type way func(to io.Writer, from io.Reader) error

// pass passes bytes until either end has gone, and then ends both connections.
func pass(w way, to, from net.Conn) {
	_ = w(to, from)
	to.Close()
	from.Close()
}

func plain(to io.Writer, from io.Reader) error {
	_, err := io.Copy(to, from)
	return err
}

// holding passes a greeting and then frames, up to the first of a kind.
func holding(greeting int64, kind byte) way {
	return func(to io.Writer, from io.Reader) error {
		if _, err := io.CopyN(to, from, greeting); err != nil {
			return err
		}
		for {
			var h [header]byte
			if _, err := io.ReadFull(from, h[:]); err != nil {
				return err
			}
			if h[0] == kind {
				if !ordered() {
					return nil
				}
				if _, err := to.Write(h[:]); err != nil {
					return err
				}
				return plain(to, from)
			}
			if _, err := to.Write(h[:]); err != nil {
				return err
			}
			length := int64(binary.LittleEndian.Uint32(h[4:]))
			if _, err := io.CopyN(to, from, length); err != nil {
				return err
			}
		}
	}
}

// ordered says that a frame is held, and tells whether it may pass.
func ordered() bool {
	fmt.Println("held.")
	line, _ := bufio.NewReader(os.Stdin).ReadString('\n')
	return strings.TrimSpace(line) == "pass"
}
