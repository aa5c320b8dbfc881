// Package qmp speaks the QEMU Machine Protocol: JSON objects over a unix socket.
//
// The server greets, the client answers with qmp_capabilities, and from then on every
// command gets one reply. Events (the machine stopped, a migration entered another
// state) come in between, whenever they happen. The protocol is QEMU's
// docs/interop/qmp-spec; the commands are in its QMP reference manual.
package qmp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// Error is a command's refusal by QEMU.
type Error struct {
	Command string `json:"-"`
	Class   string `json:"class"` // for instance GenericError, CommandNotFound
	Desc    string `json:"desc"`  // for people
}

func (e *Error) Error() string { return "QMP " + e.Command + ": " + e.Desc }

// ErrClosed is returned after the connection has ended, usually because QEMU has.
var ErrClosed = errors.New("QMP connection closed")

// Event is something that happened in QEMU.
type Event struct {
	Name string
	Data json.RawMessage
	At   time.Time // QEMU's clock
}

// Client is a connection to one QEMU. It is safe for concurrent use; commands are
// carried out one after the other.
type Client struct {
	conn   net.Conn
	events chan Event

	command sync.Mutex // one command at a time; guards enc and replies' order
	enc     *json.Encoder
	replies chan message

	closed chan struct{} // the reader has ended
	cause  error         // why, valid once closed is
}

// message is anything that the server sends.
type message struct {
	Greeting  json.RawMessage `json:"QMP"`
	Return    json.RawMessage `json:"return"`
	Error     *Error          `json:"error"`
	Event     string          `json:"event"`
	Data      json.RawMessage `json:"data"`
	Timestamp struct {
		Seconds      int64 `json:"seconds"`
		Microseconds int64 `json:"microseconds"`
	} `json:"timestamp"`
}

// eventBacklog is how many events wait for a reader before the oldest are dropped, because nobody
// has to read them.
const eventBacklog = 256

// New takes over conn and negotiates the protocol's capabilities.
func New(ctx context.Context, conn net.Conn) (*Client, error) {
	c := &Client{
		conn:    conn,
		enc:     json.NewEncoder(conn),
		events:  make(chan Event, eventBacklog),
		replies: make(chan message, 1),
		closed:  make(chan struct{}),
	}
	greeted := make(chan struct{})
	go c.read(greeted)
	select {
	case <-greeted:
	case <-c.closed:
		conn.Close()
		return nil, fmt.Errorf("QMP greeting: %w", c.cause)
	case <-ctx.Done():
		conn.Close()
		return nil, fmt.Errorf("QMP greeting: %w", ctx.Err())
	}
	if err := c.Execute(ctx, "qmp_capabilities", nil, nil); err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

func (c *Client) read(greeted chan<- struct{}) {
	defer close(c.closed)
	defer close(c.events)
	dec := json.NewDecoder(c.conn)
	for {
		var m message
		if err := dec.Decode(&m); err != nil {
			c.cause = fmt.Errorf("%w: %w", ErrClosed, err)
			return
		}
		switch {
		case m.Greeting != nil && greeted != nil:
			close(greeted)
			greeted = nil
		case m.Event != "":
			c.publish(m)
		case m.Return != nil || m.Error != nil:
			select {
			case c.replies <- m:
			default:
				c.cause = fmt.Errorf("%w: a reply that nobody asked for", ErrClosed)
				return
			}
		}
	}
}

func (c *Client) publish(m message) {
	e := Event{Name: m.Event, Data: m.Data, At: time.Unix(m.Timestamp.Seconds,
		m.Timestamp.Microseconds*1000)}
	for {
		select {
		case c.events <- e:
			return
		default:
		}
		select {
		case <-c.events:
		default:
		}
	}
}

// Events returns the channel of events. It is closed when the connection ends. If nobody reads, the
// oldest events are dropped.
func (c *Client) Events() <-chan Event { return c.events }

// Execute carries out a command. Unless nil, args is marshalled as its arguments, and the reply is
// unmarshalled into result. A refusal is an *Error. If ctx ends, Execute closes the connection,
// because a late reply would be taken for the next command's.
func (c *Client) Execute(ctx context.Context, command string, args, result any) error {
	c.command.Lock()
	defer c.command.Unlock()
	request := map[string]any{"execute": command}
	if args != nil {
		request["arguments"] = args
	}
	if err := c.enc.Encode(request); err != nil {
		return fmt.Errorf("QMP %s: %w: %w", command, ErrClosed, err)
	}
	select {
	case m := <-c.replies:
		return m.into(command, result)
	case <-c.closed:
		// The reply to quit and the end of the connection come together.
		select {
		case m := <-c.replies:
			return m.into(command, result)
		default:
			return fmt.Errorf("QMP %s: %w", command, c.cause)
		}
	case <-ctx.Done():
		c.conn.Close()
		return fmt.Errorf("QMP %s: %w", command, ctx.Err())
	}
}

func (m message) into(command string, result any) error {
	if m.Error != nil {
		m.Error.Command = command
		return m.Error
	}
	if result == nil {
		return nil
	}
	if err := json.Unmarshal(m.Return, result); err != nil {
		return fmt.Errorf("QMP %s: decode reply: %w", command, err)
	}
	return nil
}

// Close ends the connection. QEMU runs on.
func (c *Client) Close() error { return c.conn.Close() }
