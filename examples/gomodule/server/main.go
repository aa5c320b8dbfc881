// Command server is an HTTP server for a Linux guest that makes itself easy to move. When
// a migration waits, it stops accepting, drains, gives its garbage back, says yes, and goes on at
// the other side. Without vmm-tag's daemon it is a server like any other.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"taskguide/tagging/guest"
)

func main() {
	address := flag.String("listen", "localhost:8080", "where to listen")
	socket := flag.String("socket", guest.Socket, "of vmm-tag's daemon")
	flag.Parse()
	if err := serve(*address, *socket); err != nil {
		fmt.Fprintln(os.Stderr, "server:", err)
		os.Exit(1)
	}
}

func serve(address, socket string) error {
	tags := guest.Options{Socket: socket}.Connect()
	defer tags.Close()
	// Questions are answered between two lives of the server.
	asked, answered := make(chan *guest.Question), make(chan struct{})
	stop := tags.OnMigration("server", func(q *guest.Question) {
		asked <- q
		<-answered
	})
	defer stop()
	for {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		address = l.Addr().String() // the same port the next time
		fmt.Println("accepting at", address)
		server := &http.Server{Handler: http.HandlerFunc(hello)}
		ended := make(chan error, 1)
		go func() { ended <- server.Serve(l) }()
		select {
		case err := <-ended:
			return err
		case q := <-asked:
			prepare(server, q)
			fmt.Println("moved:", q.Yes())
			answered <- struct{}{}
		}
	}
}

// drainAtMost is how long requests may take to end, if nobody says when the migration is forced.
const drainAtMost = 10 * time.Second

// prepare stops accepting, has requests end, and gives back memory.
func prepare(server *http.Server, q *guest.Question) {
	left, ok := q.Left()
	if !ok || left > 2*drainAtMost {
		left = 2 * drainAtMost
	}
	// Half of the time for the requests, the rest for the migration.
	ctx, cancel := context.WithTimeout(context.Background(), left/2)
	defer cancel()
	if err := server.Shutdown(ctx); errors.Is(err, context.DeadlineExceeded) {
		fmt.Println("requests still run")
	}
	q.GiveBack() // what the balloon reports to the host is not sent
	fmt.Println("drained")
}

func hello(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "hello") }
