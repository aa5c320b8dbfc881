package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"

	"golang.org/x/sys/unix"

	"taskguide/tagging/guest"
)

// session is a connection of a program.
type session struct {
	conn *net.UnixConn
	pid  int // of the process that connected
	uid  uint32
}

// newSession finds out who connected.
func newSession(conn *net.UnixConn) (*session, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var peer *unix.Ucred
	var errPeer error
	err = raw.Control(func(fd uintptr) {
		peer, errPeer = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if err = errors.Join(err, errPeer); err != nil {
		return nil, err
	}
	return &session{conn: conn, pid: int(peer.Pid), uid: peer.Uid}, nil
}

// serve answers requests until the connection ends.
func (s *session) serve(r *registry) {
	defer r.endSession(s)
	packet := make([]byte, guest.MaxRequest)
	for {
		n, err := s.conn.Read(packet)
		if err != nil || n == 0 {
			return
		}
		if err := s.answer(r, packet[:n]); err != nil {
			return
		}
	}
}

// encode returns an answer's text, with names as they are: their usual form for the web can have
// six bytes for one, and then a status would not fit.
func encode(a guest.Answer) ([]byte, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	e.SetEscapeHTML(false)
	err := e.Encode(a)
	return text.Bytes(), err
}

func (s *session) answer(r *registry, packet []byte) error {
	var q guest.Request
	a, err := guest.Answer{}, json.Unmarshal(packet, &q)
	if err == nil {
		a, err = r.act(s, q)
	}
	if err != nil {
		a = guest.Answer{Error: err.Error()}
	}
	text, errText := encode(a)
	if errText != nil {
		return errText
	}
	var rights []byte
	if q.Op == "open" && err == nil {
		rights = unix.UnixRights(int(r.pages.dev.File.Fd()))
	}
	n, _, err := s.conn.WriteMsgUnix(text, rights, nil)
	if err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	return err
}
