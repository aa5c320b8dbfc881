// Command peer is both ends of the streams with which a test tries a guest's vsock. It needs no
// libraries, so it runs in a guest and in an emulated host.
//
//	peer guest      answers on a port of the guest, and calls a port of the host for ever
//	peer host PATH  does the same from the host, at the socket of vmm run --vsock, until the VM ends
//
// It prints a line for each answer that was right, and for each connection that ended.
package main

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	guestPort = 5000
	hostPort  = 6000
	hostCID   = 2

	blockBytes = 4 << 10
	pause      = 250 * time.Millisecond
)

func main() {
	err := errors.New("usage: peer guest | peer host PATH")
	switch {
	case len(os.Args) == 2 && os.Args[1] == "guest":
		err = guest()
	case len(os.Args) == 3 && os.Args[1] == "host":
		err = host(os.Args[2])
	}
	if err != nil {
		fmt.Println("peer:", err)
		os.Exit(1)
	}
}

// guest answers, and calls the host. Connections that end are made again.
func guest() error {
	ln, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("vsock: %w", err)
	}
	anybody := &unix.SockaddrVM{CID: unix.VMADDR_CID_ANY, Port: guestPort}
	if err := unix.Bind(ln, anybody); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	if err := unix.Listen(ln, 8); err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	go func() {
		for {
			fd, _, err := unix.Accept(ln)
			if err != nil {
				fmt.Println("peer: accept:", err)
				return
			}
			go echo(os.NewFile(uintptr(fd), "vsock"))
		}
	}()
	for n := 1; ; {
		n = callHost(n)
		time.Sleep(pause)
	}
}

// echo sends back what comes, until the end.
func echo(c io.ReadWriteCloser) {
	defer c.Close()
	_, err := io.Copy(c, c)
	fmt.Printf("peer: echo ended: %v\n", err)
}

// callHost sends numbers to the host, each once it has the one before back, from n on. It returns
// the first one that it did not get back.
func callHost(n int) int {
	fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return n
	}
	c := os.NewFile(uintptr(fd), "vsock")
	defer c.Close()
	if unix.Connect(fd, &unix.SockaddrVM{CID: hostCID, Port: hostPort}) != nil {
		return n
	}
	for answers := bufio.NewReader(c); ; n++ {
		want := fmt.Sprintf("%d\n", n)
		if _, err = io.WriteString(c, want); err != nil {
			break
		}
		var got string
		if got, err = answers.ReadString('\n'); err != nil {
			break
		}
		if got != want {
			fmt.Printf("peer: wrong answer %q to %q\n", got, want)
		}
		fmt.Printf("called=%d.\n", n)
		time.Sleep(pause)
	}
	fmt.Printf("peer: call ended: %v\n", err)
	return n
}

// host answers calls of the guest, and calls it, until the VM is gone.
func host(path string) error {
	ln, err := net.Listen("unix", fmt.Sprintf("%s_%d", path, hostPort))
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go echo(c)
		}
	}()
	c, err := connect(path)
	if err != nil {
		return err
	}
	defer c.Close()
	for n := 1; ; n++ {
		right, err := exchange(c)
		if err != nil {
			fmt.Printf("peer: ended: %v\n", err)
			return nil
		}
		if !right {
			return fmt.Errorf("answer %d is wrong", n)
		}
		fmt.Printf("echoed=%d.\n", n)
		time.Sleep(pause)
	}
}

// connect connects to the guest's port, as soon as somebody listens there.
func connect(path string) (net.Conn, error) {
	for {
		c, err := net.Dial("unix", path)
		if err != nil {
			return nil, fmt.Errorf("dial: %w", err)
		}
		fmt.Fprintf(c, "CONNECT %d\n", guestPort)
		var line []byte
		for b := make([]byte, 1); !bytes.HasSuffix(line, []byte("\n")); {
			if _, err := io.ReadFull(c, b); err != nil {
				break
			}
			line = append(line, b...)
		}
		if strings.HasPrefix(string(line), "OK ") {
			return c, nil
		}
		c.Close()
		time.Sleep(pause)
	}
}

// exchange sends random bytes and tells whether they come back.
func exchange(c net.Conn) (right bool, err error) {
	sent, got := make([]byte, blockBytes), make([]byte, blockBytes)
	_, _ = rand.Read(sent)
	written := make(chan error, 1)
	go func() {
		_, err := c.Write(sent)
		written <- err
	}()
	if _, err := io.ReadFull(c, got); err != nil {
		return false, fmt.Errorf("read: %w", err)
	}
	return bytes.Equal(sent, got), <-written
}
