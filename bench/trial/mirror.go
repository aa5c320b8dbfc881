package trial

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"path/filepath"
)

// mirror makes a network in dir that sends each frame back, until the end of ctx. It returns the
// path of its socket, which speaks QEMU's stream framing: a frame follows its length, in 32 bits.
func mirror(ctx context.Context, dir string) (path string, err error) {
	path = filepath.Join(dir, "net.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		return "", fmt.Errorf("make the guest's network: %w", err)
	}
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go reflect(conn)
		}
	}()
	return path, nil
}

// reflect sends back what comes on a connection, until its end.
func reflect(conn net.Conn) {
	defer conn.Close()
	const longest = 1 << 16
	frame := make([]byte, 4, 4+longest)
	for {
		if _, err := io.ReadFull(conn, frame[:4]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(frame)
		if n > longest {
			return
		}
		if _, err := io.ReadFull(conn, frame[4:4+n]); err != nil {
			return
		}
		if _, err := conn.Write(frame[:4+n]); err != nil {
			return
		}
	}
}
