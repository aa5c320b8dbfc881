// Load is the client of package redis as a program, for a host of the rig.
//
//	load run ADDRESS       sends requests until it is told to end, then checks all of them
//	load verify ADDRESS N  checks that requests 1 to N were kept
//
// While it runs, each line on its standard input makes it do one more request and print a JSON
// object: the line, and a Summary of the requests since the line before. The line "end", or the end
// of its input, ends it: it prints one Sample a line, which is when a request began, in
// microseconds of the Unix epoch, and how many microseconds it took.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"time"

	"taskguide/integration/redis"
)

func main() {
	if err := load(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "load:", err)
		os.Exit(1)
	}
}

func load(args []string) error {
	switch {
	case len(args) == 2 && args[0] == "run":
		c, err := connect(args[1])
		if err != nil {
			return err
		}
		return run(c, os.Stdin, os.Stdout)
	case len(args) == 3 && args[0] == "verify":
		n, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		c, err := connect(args[1])
		if err != nil {
			return err
		}
		return c.Verify(n)
	}
	return errors.New("usage: load run ADDRESS | load verify ADDRESS N")
}

// connect waits until redis serves a connection. A guest that is still booting has no address yet,
// or refuses; then redis reads its log.
func connect(address string) (*redis.Client, error) {
	const tries = 600
	for try := 1; ; try++ {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			c := redis.NewClient(conn)
			return c, c.AwaitLoaded()
		}
		if try == tries {
			return nil, err
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// run sends requests until marks ends.
func run(c *redis.Client, marks io.Reader, out io.Writer) error {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(marks); s.Scan(); {
			lines <- s.Text()
		}
	}()
	fmt.Fprintln(out, "connected")
	answers := json.NewEncoder(out)
	since := 0
	for {
		select {
		case line, ok := <-lines:
			if !ok || line == "end" {
				return finish(c, out)
			}
			// Its sum has a request that began after the line came.
			if err := c.Request(); err != nil {
				return err
			}
			answer := mark{Mark: line, Summary: redis.Summarize(c.Samples[since:])}
			if err := answers.Encode(answer); err != nil {
				return err
			}
			since = len(c.Samples)
		default:
			if err := c.Request(); err != nil {
				return err
			}
		}
	}
}

// mark is what a line of input is answered with.
type mark struct {
	Mark string `json:"mark"`
	redis.Summary
}

// finish checks all requests over the same connection, and prints the samples.
func finish(c *redis.Client, out io.Writer) error {
	if err := c.Verify(len(c.Samples)); err != nil {
		return err
	}
	w := bufio.NewWriter(out)
	fmt.Fprintf(w, "verified %d\n", len(c.Samples))
	for _, s := range c.Samples {
		fmt.Fprintf(w, "%d %d\n", s.Started.UnixMicro(), s.Took.Microseconds())
	}
	return w.Flush()
}
