// Command load works a disk or a network as hard as it can, and says how much it did in how long.
// It needs no libraries, so it runs in a guest and in an emulated host.
//
//	load serve                      is the other end of what is sent, received and asked
//	load LABEL WORK TARGET COUNT    does one kind of work on a block device or with an address
//
// It does it so often, or for ever if COUNT is 0, and ends with a line like
// "ops=100 ns=2000000000 LABEL!".
package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// What one operation moves.
const (
	largeBytes  = 1 << 20
	smallBytes  = 4 << 10
	streamBytes = 64 << 10
	askBytes    = 64
)

const (
	diskBytes = 64 << 20 // of the device that are used
	atOnce    = 8        // requests of random reads
)

// The ports of load serve.
const (
	sinkPort   = ":9"
	sourcePort = ":19"
	echoPort   = ":7"
)

func main() {
	err := errors.New("usage: load serve | load LABEL WORK TARGET COUNT")
	switch len(os.Args) {
	case 2:
		err = serve()
	case 5:
		err = work(os.Args[1], os.Args[2], os.Args[3], os.Args[4])
	}
	if err != nil {
		fmt.Println("load:", err)
		os.Exit(1)
	}
}

// operation does one piece of work, the n-th.
type operation func(n int64) error

// job is a kind of work.
type job struct {
	open    func(target string) (operation, error)
	workers int
}

var jobs = map[string]job{
	"write":   {disk(0, largeBytes, writeNext), 1},
	"read":    {disk(0, largeBytes, readNext), 1},
	"durable": {disk(unix.O_DSYNC, smallBytes, writeNext), 1},
	"random":  {disk(0, smallBytes, readAnywhere), atOnce},
	"send":    {send, 1},
	"receive": {receive, 1},
	"ask":     {ask, 1},
}

func work(label, name, target, count string) error {
	j, ok := jobs[name]
	if !ok {
		return fmt.Errorf("unknown work %q", name)
	}
	times, err := strconv.ParseInt(count, 10, 64)
	if err != nil {
		return fmt.Errorf("count: %w", err)
	}
	op, err := j.open(target)
	if err != nil {
		return err
	}
	var next atomic.Int64
	failed := make(chan error, j.workers)
	var all sync.WaitGroup
	started := time.Now()
	for range j.workers {
		all.Go(func() {
			for n := next.Add(1); times == 0 || n <= times; n = next.Add(1) {
				if err := op(n); err != nil {
					failed <- err
					return
				}
			}
		})
	}
	all.Wait()
	took := time.Since(started)
	select {
	case err := <-failed:
		return err
	default:
	}
	fmt.Printf("ops=%d ns=%d %s!\n", times, took.Nanoseconds(), label)
	return nil
}

// disk opens a block device without the page cache, for requests of one size.
func disk(
	flags, size int, do func(fd int, n int64, block []byte) error,
) func(target string) (operation, error) {
	return func(target string) (operation, error) {
		fd, err := unix.Open(target, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC|flags, 0)
		if err != nil {
			return nil, fmt.Errorf("open %s: %w", target, err)
		}
		// A mapping begins at a page, as O_DIRECT wants it. Workers share it.
		block, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE,
			unix.MAP_PRIVATE|unix.MAP_ANONYMOUS|unix.MAP_POPULATE)
		if err != nil {
			return nil, fmt.Errorf("a block: %w", err)
		}
		return func(n int64) error { return do(fd, n, block) }, nil
	}
}

func writeNext(fd int, n int64, block []byte) error {
	done, err := unix.Pwrite(fd, block, place(n, block))
	return whole(done, block, err)
}

func readNext(fd int, n int64, block []byte) error {
	done, err := unix.Pread(fd, block, place(n, block))
	return whole(done, block, err)
}

func readAnywhere(fd int, _ int64, block []byte) error {
	done, err := unix.Pread(fd, block, place(rand.Int64N(diskBytes), block))
	return whole(done, block, err)
}

// place is where the n-th block lies on the disk, which is used from its start again and again.
func place(n int64, block []byte) int64 {
	size := int64(len(block))
	return n % (diskBytes / size) * size
}

// whole requires that all of a block was read or written.
func whole(done int, block []byte, err error) error {
	if err == nil && done != len(block) {
		return fmt.Errorf("%d bytes of %d", done, len(block))
	}
	return err
}

func send(address string) (operation, error) {
	c, err := net.Dial("tcp", address+sinkPort)
	block := make([]byte, streamBytes)
	return func(int64) error {
		_, err := c.Write(block)
		return err
	}, err
}

func receive(address string) (operation, error) {
	c, err := net.Dial("tcp", address+sourcePort)
	block := make([]byte, streamBytes)
	return func(int64) error {
		_, err := io.ReadFull(c, block)
		return err
	}, err
}

func ask(address string) (operation, error) {
	c, err := net.Dial("tcp", address+echoPort)
	block := make([]byte, askBytes)
	return func(int64) error {
		if _, err := c.Write(block); err != nil {
			return err
		}
		_, err := io.ReadFull(c, block)
		return err
	}, err
}

// serve answers until it is killed.
func serve() error {
	failed := make(chan error)
	for port, answer := range map[string]func(net.Conn){
		sinkPort:   swallow,
		sourcePort: pour,
		echoPort:   echo,
	} {
		ln, err := net.Listen("tcp", port)
		if err != nil {
			return err
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					failed <- err
					return
				}
				go func() {
					defer c.Close()
					answer(c)
				}()
			}
		}()
	}
	return <-failed
}

// swallow, pour and echo end with their connection. They use plain reads and writes, because
// io.Copy would have the kernel splice.
func swallow(c net.Conn) {
	block := make([]byte, streamBytes)
	for {
		if _, err := c.Read(block); err != nil {
			return
		}
	}
}

func pour(c net.Conn) {
	block := make([]byte, streamBytes)
	for {
		if _, err := c.Write(block); err != nil {
			return
		}
	}
}

func echo(c net.Conn) {
	block := make([]byte, askBytes)
	for {
		n, err := c.Read(block)
		if err != nil {
			return
		}
		if _, err := c.Write(block[:n]); err != nil {
			return
		}
	}
}
