package redis

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"
)

// patience is how long a request may take before the client takes the connection for lost. No move
// may come near it.
const patience = 2 * time.Minute

// counter is the key that INCR counts up.
const counter = "requests"

// ErrWrongAnswer is returned if redis answered something that it must not.
var ErrWrongAnswer = errors.New("wrong answer")

// Sample is one request that was answered.
type Sample struct {
	Started time.Time
	Took    time.Duration
}

// Client sends numbered requests to redis, one after the other, over one connection. Its methods
// must not be called at the same time.
type Client struct {
	conn net.Conn
	in   *bufio.Reader

	// Samples has one element for each request that was answered, in order: request n is
	// Samples[n-1].
	Samples []Sample
}

// NewClient returns a client that uses a connection to an empty redis.
func NewClient(conn net.Conn) *Client {
	return &Client{conn: conn, in: bufio.NewReader(conn)}
}

// key is what request n writes.
func key(n int) string { return fmt.Sprintf("key:%08d", n) }

// value is what request n writes to its key: 100 bytes that differ for each n.
func value(n int) string {
	return strings.Repeat(fmt.Sprintf("%09d.", n), 10)
}

// Request sends the next request and waits for its answer.
func (c *Client) Request() error {
	n := len(c.Samples) + 1
	started := time.Now()
	if err := c.send(command("INCR", counter) + command("SET", key(n), value(n))); err != nil {
		return fmt.Errorf("request %d: %w", n, err)
	}
	for _, want := range []string{":" + strconv.Itoa(n), "+OK"} {
		if err := c.expect(want); err != nil {
			return fmt.Errorf("request %d: %w", n, err)
		}
	}
	c.Samples = append(c.Samples, Sample{started, time.Since(started)})
	return nil
}

// AwaitLoaded waits until redis, which has just started, has read its log.
func (c *Client) AwaitLoaded() error {
	const pause = 100 * time.Millisecond
	for range patience / pause {
		if err := c.send(command("PING")); err != nil {
			return err
		}
		answer, err := c.line()
		if err != nil || answer == "+PONG" {
			return err
		}
		if !strings.HasPrefix(answer, "-LOADING ") {
			return fmt.Errorf("%w: %q", ErrWrongAnswer, answer)
		}
		time.Sleep(pause)
	}
	return errors.New("redis does not end to load")
}

// Verify requires that redis has all of the requests 1 to answered. It may have one more: a request
// that was carried out and whose answer did not arrive.
func (c *Client) Verify(answered int) error {
	const batch = 100
	for first := 1; first <= answered; first += batch {
		last := min(first+batch-1, answered)
		if err := c.verify(first, last); err != nil {
			return err
		}
	}
	if err := c.send(command("GET", counter)); err != nil {
		return err
	}
	text, err := c.bulk()
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < answered || n > answered+1 {
		return fmt.Errorf("%w: %q requests, want %d, or one more", ErrWrongAnswer, text, answered)
	}
	return nil
}

// verify reads back the keys of the requests first to last.
func (c *Client) verify(first, last int) error {
	var ask strings.Builder
	for n := first; n <= last; n++ {
		ask.WriteString(command("GET", key(n)))
	}
	if err := c.send(ask.String()); err != nil {
		return err
	}
	for n := first; n <= last; n++ {
		got, err := c.bulk()
		if err != nil {
			return fmt.Errorf("%s: %w", key(n), err)
		}
		if got != value(n) {
			return fmt.Errorf("%w: %s has %q", ErrWrongAnswer, key(n), got)
		}
	}
	return nil
}

// command encodes a command as redis' protocol (RESP) has it: an array of strings.
func command(words ...string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%d\r\n", len(words))
	for _, w := range words {
		fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
	}
	return b.String()
}

func (c *Client) send(commands string) error {
	if err := c.conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	_, err := c.conn.Write([]byte(commands))
	return err
}

func (c *Client) line() (string, error) {
	line, err := c.in.ReadString('\n')
	return strings.TrimSuffix(line, "\r\n"), err
}

func (c *Client) expect(want string) error {
	got, err := c.line()
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%w: %q, want %q", ErrWrongAnswer, got, want)
	}
	return nil
}

// bulk reads a string that has no line break in it.
func (c *Client) bulk() (string, error) {
	head, err := c.line()
	if err != nil {
		return "", err
	}
	digits, ok := strings.CutPrefix(head, "$")
	size, err := strconv.Atoi(digits)
	if err != nil || !ok || size < 0 {
		return "", fmt.Errorf("%w: %q is no string", ErrWrongAnswer, head)
	}
	return c.line()
}

// Summary says how long some requests took, in milliseconds.
type Summary struct {
	Requests int     `json:"requests"`
	P50      float64 `json:"p50_ms"`
	P99      float64 `json:"p99_ms"`
	Longest  float64 `json:"longest_ms"`
}

// Summarize summarizes samples. Without any, all is 0.
func Summarize(samples []Sample) Summary {
	if len(samples) == 0 {
		return Summary{}
	}
	took := make([]time.Duration, len(samples))
	for i, s := range samples {
		took[i] = s.Took
	}
	slices.Sort(took)
	at := func(percent int) float64 {
		return float64(took[(len(took)-1)*percent/100]) / float64(time.Millisecond)
	}
	return Summary{Requests: len(samples), P50: at(50), P99: at(99), Longest: at(100)}
}
