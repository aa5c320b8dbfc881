package guest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/tagging/abi"
)

// Socket is where the daemon listens unless it is told otherwise.
const Socket = "/run/vmm-tag.sock"

// Request is what a program asks of the daemon: one JSON object a packet of the socket, which is a
// SOCK_SEQPACKET. Each gets one [Answer], in order.
type Request struct {
	// Op is one of:
	//
	//	open    a task of the calling program, with a slot: the answer has the RAM's descriptor
	//	ring    that task's depth has changed while notify was set; answered once the host knows
	//	close   the task ends
	//	enter   a task of the calling program's parent enters a segment: for shell scripts
	//	exit    it leaves it
	//	begin   a run begins, of a task of the parent that is inside but for its runs
	//	end     the run ends
	//	status  what there is
	//	migration  what a migration is doing, without the tasks
	//	watch   from now on, packets with [Answer].Migration come by themselves: one at once,
	//	        then one for each change; for a connection that asks nothing else
	Op    string `json:"op"`
	Name  string `json:"name,omitempty"`  // of the task: open, enter, exit, begin, end
	ID    uint32 `json:"id,omitempty"`    // of the task: ring, close
	Enter bool   `json:"enter,omitempty"` // ring: the task entered, it did not exit
}

// Answer is the daemon's.
type Answer struct {
	Error  string  `json:"error,omitempty"`
	ID     uint32  `json:"id,omitempty"`
	Page   int     `json:"page,omitempty"`
	Slot   int     `json:"slot,omitempty"`
	Status *Status `json:"status,omitempty"`
	// Migration answers migration, and is what watch is for.
	Migration *Migration `json:"migration,omitempty"`
}

// Migration is what a program is told about migrations.
type Migration struct {
	State      abi.MigrationState `json:"state"`
	DeadlineMS uint32             `json:"deadline_ms"` // until it is forced; 0: it is not
	Epoch      uint32             `json:"epoch"`       // completed migrations
	// Asked: the migration waits, and a task of this program is outside its segment.
	Asked bool `json:"asked"`
}

// Over tells whether a migration that was under way at an epoch is over.
func (m Migration) Over(epoch uint32) bool {
	return m.State == abi.StateNone || m.Epoch != epoch
}

// Left returns how long it is until the migration is forced; ok is false if it is not.
func (m Migration) Left() (left time.Duration, ok bool) {
	return time.Duration(m.DeadlineMS) * time.Millisecond, m.DeadlineMS > 0
}

// Status is the state of the device and of the daemon's tasks.
type Status struct {
	State      abi.MigrationState `json:"state"`
	DeadlineMS uint32             `json:"deadline_ms"` // 0: none
	Epoch      uint32             `json:"epoch"`
	Tasks      []TaskStatus       `json:"tasks"`
}

// TaskStatus is one task.
type TaskStatus struct {
	ID    uint32 `json:"id"`
	Name  string `json:"name"`
	PID   int    `json:"pid"` // whose it is
	Depth uint32 `json:"depth"`
}

// MaxRequest and MaxAnswer are the most bytes of a request and of an answer. Names are no longer
// than a slot has room for, so every status fits.
const (
	MaxRequest = 4 << 10
	MaxAnswer  = 160 << 10
)

// ErrUntagged is returned once the daemon is gone: the program runs on, untagged.
var ErrUntagged = errors.New("untagged: the tag daemon is gone")

// Client is a program's connection to the daemon. It is safe for concurrent use.
type Client struct {
	conn *net.UnixConn

	// mu is held while the client waits for an answer. It guards what follows.
	mu    sync.Mutex
	gone  bool
	looks int // for an answer, before a daemon without a page to look at counts as gone

	open atomic.Pointer[mapping] // of the task that was opened last; nil: none was
}

// mapping is a tag page, in RAM that the first task mapped.
type mapping struct {
	ram  RAM
	page uint32
}

// Dial connects to the daemon at a socket. Programs that get an error run untagged.
func Dial(socket string) (*Client, error) {
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: socket, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("untagged: no tag daemon: %w", err)
	}
	return &Client{conn: conn, looks: patientLooks}, nil
}

// Close ends the connection, and the tasks that were opened by it. The device's RAM stays mapped,
// because slots may still look at it.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gone = true
	return c.conn.Close()
}

// Ask asks the daemon and waits for its answer, for 30 s. A daemon that takes longer hangs, and
// counts as gone.
func (c *Client) Ask(q Request) (Answer, error) { return c.AskContext(context.Background(), q) }

// AskContext is Ask, which gives up when ctx ends, too.
func (c *Client) AskContext(ctx context.Context, q Request) (Answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	patient := c.patience()
	a, file, err := c.ask(q, func() bool { return ctx.Err() == nil && patient() })
	if file != nil {
		_ = file.Close()
	}
	return a, err
}

// patience returns what is true for as long as an answer is waited for. It counts looks, because
// the guest's clock may leap while the machine stands still. mu is held.
func (c *Client) patience() (alive func() bool) {
	left := c.looks
	return func() bool {
		left--
		return left > 0
	}
}

// AskWhile waits only for as long as alive is true, which it looks at every 50 ms. Otherwise it
// returns ErrUntagged.
func (c *Client) AskWhile(q Request, alive func() bool) (Answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, file, err := c.ask(q, alive)
	if file != nil {
		_ = file.Close()
	}
	return a, err
}

const (
	// pollAlive is how often a client that waits looks whether its page still has its magic.
	pollAlive = 50 * time.Millisecond
	// patience is how long a client waits where there is no page to look at.
	patience     = 30 * time.Second
	patientLooks = int(patience / pollAlive)
)

// ask asks, and waits for as long as alive is true; mu is held.
func (c *Client) ask(q Request, alive func() bool) (Answer, *os.File, error) {
	if c.gone {
		return Answer{}, nil, ErrUntagged
	}
	text, err := json.Marshal(q)
	if err == nil {
		_ = c.conn.SetWriteDeadline(time.Now().Add(patience))
		_, err = c.conn.Write(text)
	}
	packet, rights := make([]byte, MaxAnswer), make([]byte, unix.CmsgSpace(4))
	var n, oob int
	for err == nil {
		_ = c.conn.SetReadDeadline(time.Now().Add(pollAlive))
		n, oob, _, _, err = c.conn.ReadMsgUnix(packet, rights)
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err = nil; !alive() {
			err = ErrUntagged
		}
	}
	var a Answer
	if err == nil && n == 0 {
		err = ErrUntagged
	}
	if err == nil {
		err = json.Unmarshal(packet[:n], &a)
	}
	if err != nil {
		c.gone = true
		_ = c.conn.Close()
		return a, nil, ErrUntagged
	}
	file := received(rights[:oob])
	if a.Error != "" {
		return a, file, errors.New(a.Error)
	}
	return a, file, nil
}

// received returns the file that came with a packet, or nil.
func received(rights []byte) *os.File {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil || len(messages) != 1 {
		return nil
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return nil
	}
	for _, extra := range fds[1:] {
		_ = unix.Close(extra)
	}
	unix.CloseOnExec(fds[0])
	return os.NewFile(uintptr(fds[0]), "tag device")
}

// Migrating tells whether a migration is under way. With a task, it costs nanoseconds.
func (c *Client) Migrating() bool {
	if m := c.open.Load(); m != nil && m.ram.Load(m.page+PageMagicAt) == abi.PageMagic {
		return m.ram.Load(m.page+PageNotifyAt) != 0
	}
	m, err := c.Migration()
	return err == nil && m.State != abi.StateNone
}

// Migration asks what a migration is doing.
func (c *Client) Migration() (Migration, error) {
	a, err := c.Ask(Request{Op: "migration"})
	if err == nil && a.Migration == nil {
		err = errors.New("the tag daemon does not say what a migration is doing")
	}
	if err != nil {
		return Migration{}, err
	}
	return *a.Migration, nil
}

// Watch calls told with what a migration is doing, now and whenever that changes, until ctx ends or
// the daemon does. It has a connection of its own to the daemon at a socket.
func Watch(ctx context.Context, socket string, told func(Migration)) error {
	c, err := Dial(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.conn.Close() })()
	if _, err := c.conn.Write([]byte(`{"op":"watch"}`)); err != nil {
		return errors.Join(ctx.Err(), ErrUntagged)
	}
	packet := make([]byte, MaxRequest)
	for {
		n, err := c.conn.Read(packet)
		if err != nil || n == 0 {
			return errors.Join(ctx.Err(), ErrUntagged)
		}
		var a Answer
		if err := json.Unmarshal(packet[:n], &a); err != nil || a.Error != "" {
			return fmt.Errorf("the tag daemon answers %q", packet[:n])
		}
		if a.Migration != nil {
			told(*a.Migration)
		}
	}
}

// Slot is a task with a slot of the tag device. One goroutine at a time may use it.
type Slot struct {
	c        *Client
	ram      RAM
	id       uint32
	page, at uint32
	depth    uint32
	lost     atomic.Bool // for good: the task is untagged
}

// Open makes a task of this program take part, outside any segment.
func (c *Client) Open(name string) (*Slot, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, file, err := c.ask(Request{Op: "open", Name: name}, c.patience())
	if file != nil {
		defer file.Close()
	}
	switch {
	case err != nil:
		return nil, err
	case a.Page < 0 || a.Page >= abi.DevicePages || a.Slot < 0 || a.Slot >= abi.PageSlots:
		return nil, fmt.Errorf("the tag daemon answers with slot %d of page %d", a.Slot, a.Page)
	}
	ram, err := c.mapped(file)
	if err != nil {
		return nil, err
	}
	c.open.Store(&mapping{ram, PageAt(a.Page)})
	return &Slot{
		c: c, ram: ram, id: a.ID, page: PageAt(a.Page), at: SlotAt(a.Page, a.Slot),
	}, nil
}

// mapped returns the device's RAM, which the first task maps; mu is held.
func (c *Client) mapped(file *os.File) (RAM, error) {
	if m := c.open.Load(); m != nil {
		return m.ram, nil
	}
	if file == nil {
		return RAM{}, errors.New("the tag daemon answers without the device's RAM")
	}
	return MapRAM(file)
}

// Enter begins a segment. Segments nest. It returns ErrUntagged once the daemon is gone. From then
// on it has no effect, because the host may not know any more what this task said last.
func (s *Slot) Enter() error {
	s.depth++
	return s.tell(true)
}

// Exit ends the segment. While a migration goes on, it returns only once the host knows, because
// the machine may be moved inside this very call. Outside of a segment it does nothing.
func (s *Slot) Exit() error {
	if s.depth == 0 {
		return nil
	}
	s.depth--
	return s.tell(false)
}

// tell stores the depth, and rings if the host wants it.
func (s *Slot) tell(enter bool) error {
	if !s.Alive() {
		s.lost.Store(true)
		return ErrUntagged
	}
	s.ram.Store(s.at+SlotDepthAt, s.depth)
	Fence()
	if s.ram.Load(s.page+PageNotifyAt) == 0 {
		return nil
	}
	if _, err := s.c.AskWhile(Request{Op: "ring", ID: s.id, Enter: enter}, s.Alive); err != nil {
		s.lost.Store(true)
		return err
	}
	return nil
}

// Alive tells whether the page is still a tag page, and the slot still this task's. Any goroutine
// may ask.
func (s *Slot) Alive() bool {
	return !s.lost.Load() && s.ram.Load(s.page+PageMagicAt) == abi.PageMagic &&
		s.ram.Load(s.at+SlotFlagsAt) == abi.SlotUsed && s.ram.Load(s.at+SlotTaskAt) == s.id
}

// Close ends the task.
func (s *Slot) Close() error {
	_, err := s.c.AskWhile(Request{Op: "close", ID: s.id}, s.Alive)
	return err
}
