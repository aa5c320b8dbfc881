package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

const (
	redisAddress = "127.0.0.1:6379"
	echoAddress  = "http://127.0.0.1:5678/"
	echoText     = "as it was"
	saveEvery    = 10
	clientPause  = 100 * time.Millisecond // the build needs the processor, too
)

// clients asks redis and http-echo of the same guest again and again, and checks their answers.
// Keys expire, and redis saves now and then.
func clients() error {
	conn, err := net.Dial("tcp", redisAddress)
	if err != nil {
		return err
	}
	defer conn.Close()
	in := bufio.NewReader(conn)
	ask := func(request string) (string, error) {
		if _, err := fmt.Fprintf(conn, "%s\r\n", request); err != nil {
			return "", err
		}
		answer, err := in.ReadString('\n')
		return strings.TrimSpace(answer), err
	}
	saves := 0
	for n := 1; ; n++ {
		count, err := ask("INCR count")
		if err == nil && count != fmt.Sprintf(":%d", n) {
			err = fmt.Errorf("FAULT: request %d is %s", n, count)
		}
		stored, errStored := ask(fmt.Sprintf("SET key-%d %d PX 300", n, n))
		if err = errors.Join(err, errStored, askEcho()); err != nil {
			return err
		}
		if stored != "+OK" {
			return fmt.Errorf("FAULT: SET is answered with %q", stored)
		}
		if n%saveEvery == 0 {
			answer, err := ask("BGSAVE")
			if err != nil {
				return err
			}
			if answer == "+Background saving started" {
				saves++
			}
			fmt.Printf("clients: asked=%d saves=%d.\n", n, saves)
		}
		time.Sleep(clientPause)
	}
}

// askEcho asks http-echo.
func askEcho() error {
	answer, err := http.Get(echoAddress)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err == nil && string(text) != echoText+"\n" {
		err = fmt.Errorf("FAULT: http-echo says %q", text)
	}
	return err
}
