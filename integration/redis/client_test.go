package redis

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// server is a redis that knows INCR, SET and GET. Its fields, which are set before it serves, make
// it fail.
type server struct {
	data map[string]string

	loading int // so many answers say that it has not read its log yet

	twice  int // this INCR is carried out twice
	hangUp int // this INCR ends the connection
}

// dial starts a server and returns a client that is connected to it.
func dial(t *testing.T, s *server) *Client {
	t.Helper()
	s.data = map[string]string{}
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close() })
	go func() {
		defer theirs.Close()
		_ = s.serve(theirs)
	}()
	return NewClient(ours)
}

func (s *server) serve(conn net.Conn) error {
	in := bufio.NewReader(conn)
	// A pipe has no room, and a client sends all of a batch before it reads.
	answers := make(chan string, 1000)
	defer close(answers)
	go func() {
		for a := range answers {
			_, _ = io.WriteString(conn, a)
		}
	}()
	for {
		words, err := readCommand(in)
		if err != nil {
			return err
		}
		answer, err := s.answer(words)
		if err != nil {
			return err
		}
		answers <- answer
	}
}

func readCommand(in *bufio.Reader) ([]string, error) {
	var n int
	if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
		return nil, err
	}
	words := make([]string, n)
	for i := range words {
		var size int
		if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
			return nil, err
		}
		text := make([]byte, size+len("\r\n"))
		if _, err := io.ReadFull(in, text); err != nil {
			return nil, err
		}
		words[i] = string(text[:size])
	}
	return words, nil
}

func (s *server) answer(words []string) (string, error) {
	if s.loading > 0 {
		s.loading--
		return "-LOADING Redis is loading the dataset in memory\r\n", nil
	}
	switch words[0] {
	case "PING":
		return "+PONG\r\n", nil
	case "INCR":
		n, _ := strconv.Atoi(s.data[words[1]])
		n++
		switch n {
		case s.twice:
			n++
		case s.hangUp:
			return "", errors.New("hang up")
		}
		s.data[words[1]] = strconv.Itoa(n)
		return fmt.Sprintf(":%d\r\n", n), nil
	case "SET":
		s.data[words[1]] = words[2]
		return "+OK\r\n", nil
	case "GET":
		text, ok := s.data[words[1]]
		if !ok {
			return "$-1\r\n", nil
		}
		return fmt.Sprintf("$%d\r\n%s\r\n", len(text), text), nil
	}
	return "-ERR unknown command\r\n", nil
}

func requests(t *testing.T, c *Client, n int) {
	t.Helper()
	for range n {
		require.NoError(t, c.Request())
	}
}

func TestClientKnowsWhatWasKept(t *testing.T) {
	c := dial(t, &server{})
	requests(t, c, 250)
	require.Len(t, c.Samples, 250)
	require.NoError(t, c.Verify(250))
	require.NoError(t, c.Verify(249), "one more may have been carried out")
	require.ErrorIs(t, c.Verify(248), ErrWrongAnswer)
	require.ErrorIs(t, c.Verify(251), ErrWrongAnswer)
}

func TestClientWaitsUntilTheLogIsRead(t *testing.T) {
	c := dial(t, &server{loading: 3})
	require.NoError(t, c.AwaitLoaded())
	requests(t, c, 1)
}

func TestClientNoticesWhatWasNotKept(t *testing.T) {
	for name, spoil := range map[string]func(data map[string]string){
		"a key is gone":               func(d map[string]string) { delete(d, key(120)) },
		"a key has another's value":   func(d map[string]string) { d[key(120)] = value(121) },
		"the last one is gone":        func(d map[string]string) { delete(d, key(250)) },
		"the count is that of before": func(d map[string]string) { d[counter] = "249" },
		"the count is no number":      func(d map[string]string) { d[counter] = "many" },
	} {
		t.Run(name, func(t *testing.T) {
			s := &server{}
			c := dial(t, s)
			requests(t, c, 250)
			spoil(s.data)
			require.ErrorIs(t, c.Verify(250), ErrWrongAnswer)
		})
	}
}

func TestClientNoticesARequestThatWasCarriedOutTwice(t *testing.T) {
	c := dial(t, &server{twice: 7})
	requests(t, c, 6)
	require.ErrorIs(t, c.Request(), ErrWrongAnswer)
}

func TestClientNoticesALostConnection(t *testing.T) {
	c := dial(t, &server{hangUp: 7})
	requests(t, c, 6)
	require.Error(t, c.Request())
	require.Len(t, c.Samples, 6, "it was not answered")
}

func TestSummaryIsOfAllSamples(t *testing.T) {
	require.Equal(t, Summary{}, Summarize(nil))
	var samples []Sample
	for _, ms := range []int{5, 1, 3, 2, 400} {
		samples = append(samples, Sample{Took: time.Duration(ms) * time.Millisecond})
	}
	require.Equal(t, Summary{Requests: 5, P50: 3, P99: 5, Longest: 400}, Summarize(samples))
}

// FuzzAnswers: no answer of a server makes a client fail otherwise than by an error.
func FuzzAnswers(f *testing.F) {
	for _, answer := range []string{":1\r\n+OK\r\n", "$-1\r\n", "\n", "$5\r\nab\r\n", "$$\r\n"} {
		f.Add(answer)
	}
	f.Fuzz(func(t *testing.T, answer string) {
		for _, ask := range []func(*Client) error{
			(*Client).Request,
			func(c *Client) error { return c.Verify(1) },
		} {
			ours, theirs := net.Pipe()
			go func() {
				_, _ = theirs.Read(make([]byte, 4096))
				_, _ = io.WriteString(theirs, answer)
				theirs.Close()
			}()
			if err := ask(NewClient(ours)); err == nil {
				require.True(t, strings.HasPrefix(answer, ":1\r\n+OK\r\n"), "%q", answer)
			}
			ours.Close()
		}
	})
}
