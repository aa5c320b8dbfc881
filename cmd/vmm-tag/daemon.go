package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

// config is what the daemon is told.
type config struct {
	socket string
	group  string // whose members may connect; empty: root alone
	device string // its folder; empty: found
	// wake is how often the daemon renews the leases. A lease lasts leases times as long.
	wake   time.Duration
	leases int
}

// serve runs the daemon until ctx ends.
func serve(ctx context.Context, c config, log *slog.Logger) error {
	folder := c.device
	if folder == "" {
		var err error
		if folder, err = guest.DeviceFolder(); err != nil {
			return err
		}
	}
	dev, err := guest.OpenDevice(folder)
	if err != nil {
		return fmt.Errorf("open the tag device: %w", err)
	}
	listener, err := listen(c)
	if err != nil {
		return errors.Join(err, dev.Close())
	}
	defer listener.Close()
	r := newRegistry(newPages(dev, uint32(c.term().Milliseconds())))
	r.next += rand.Uint32N(idRange)
	context.AfterFunc(ctx, func() { listener.Close() })
	go r.renewForever(ctx, c.wake, log)
	log.Info("the tag device is served at " + c.socket)
	err = r.acceptAll(ctx, listener, log)
	r.endAll()
	return err
}

// term is how long the leases last without a wake-up.
func (c config) term() time.Duration { return c.wake * time.Duration(c.leases) }

// check refuses leases that the host would end while the daemon sleeps.
func (c config) check() error {
	switch {
	case c.wake < minWake:
		return fmt.Errorf("--wake %v: at least %v", c.wake, minWake)
	case c.leases < minLeases:
		return fmt.Errorf("--lease %d: at least %d wake-ups", c.leases, minLeases)
	case c.wake > abi.MaxTerm/time.Duration(c.leases):
		return fmt.Errorf("--wake %v and --lease %d: a lease lasts %v at most", c.wake, c.leases,
			abi.MaxTerm)
	}
	return nil
}

const (
	// minLeases is the least number of wake-ups that a lease lasts.
	minLeases = 10
	// minWake keeps a term, which is in milliseconds, from being 0: that would be no lease at all.
	minWake = time.Millisecond
)

// acceptor is a socket that programs connect to.
type acceptor interface {
	AcceptUnix() (*net.UnixConn, error)
}

// acceptPause is how long the daemon waits after an error, as when it has no descriptors left.
const acceptPause = 10 * time.Millisecond

// acceptAll serves programs until ctx ends. That one program cannot be served must not end the
// others' tasks.
func (r *registry) acceptAll(ctx context.Context, l acceptor, log *slog.Logger) error {
	said := false
	for {
		conn, err := l.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err == nil:
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			go func() {
				defer stop()
				r.welcome(conn, log)
			}()
			continue
		case !said:
			log.Warn("a program cannot connect; this is said once", "error", err)
			said = true
		}
		time.Sleep(acceptPause)
	}
}

// welcome serves a connection, unless its user has too many.
func (r *registry) welcome(conn *net.UnixConn, log *slog.Logger) {
	defer conn.Close()
	s, err := newSession(conn)
	if err != nil {
		log.Warn("a program could not be identified: " + err.Error())
		return
	}
	if r.admit(s.uid) {
		defer r.leave(s.uid)
		s.serve(r)
	}
}

// listen makes the socket. Who may connect may write all pages of the device.
func listen(c config) (*net.UnixListener, error) {
	if err := removeStale(c.socket); err != nil {
		return nil, err
	}
	mode := os.FileMode(0o600)
	// Nobody else may connect before it has its group.
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var errMode error
		err := c.Control(func(fd uintptr) { errMode = unix.Fchmod(int(fd), 0o600) })
		return errors.Join(err, errMode)
	}}
	listener, err := private.Listen(context.Background(), "unixpacket", c.socket)
	if err != nil {
		return nil, err
	}
	l := listener.(*net.UnixListener)
	if c.group != "" {
		g, err := user.LookupGroup(c.group)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		gid, err := strconv.Atoi(g.Gid)
		if err == nil {
			err = os.Chown(c.socket, -1, gid)
		}
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		mode = 0o660
	}
	if err := os.Chmod(c.socket, mode); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// removeStale removes the socket of a daemon that is dead, and nothing else.
func removeStale(socket string) error {
	info, err := os.Lstat(socket)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case info.Mode().Type() != os.ModeSocket:
		return fmt.Errorf("%s is there, and is no socket: use another --socket", socket)
	}
	c, err := guest.Dial(socket)
	switch {
	case errors.Is(err, os.ErrNotExist): // it has ended just now
		return nil
	case err == nil:
		return errors.Join(fmt.Errorf("a daemon listens at %s already", socket), c.Close())
	case !errors.Is(err, unix.ECONNREFUSED): // of another kind, or too busy to accept
		return fmt.Errorf("%s may be in use: %w", socket, err)
	}
	if err := os.Remove(socket); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (r *registry) renewForever(ctx context.Context, wake time.Duration, log *slog.Logger) {
	tick := time.NewTicker(wake)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if n := r.renew(); n > 0 {
				log.Warn(fmt.Sprintf("tasks lost, because this daemon did not run: %d", n))
			}
			r.tell(time.Now())
		}
	}
}

// endAll ends all tasks, because nobody is left to end them.
func (r *registry) endAll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tasks {
		r.end(t)
	}
}
