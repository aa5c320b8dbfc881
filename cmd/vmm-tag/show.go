package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"taskguide/tagging/abi"
	"taskguide/tagging/guest"
)

// display is how and what status and watch print.
type display struct {
	to   io.Writer
	json bool   // for scripts: an object a line
	task string // by name or id; empty: all
}

// shown is a status for scripts.
type shown struct {
	// Text is what people read.
	Text string `json:"text"`
	guest.Status
}

// states are what STATE says, for people.
var states = map[abi.MigrationState]string{
	abi.StateNone:          "no migration",
	abi.StateWaiting:       "migration requested",
	abi.StatePreCopy:       "memory is being copied",
	abi.StateSuspended:     "migration suspended",
	abi.StateSwitchingOver: "switching over",
}

// describe returns the state in words.
func describe(s *guest.Status) string {
	text := states[s.State]
	if s.DeadlineMS > 0 {
		text += fmt.Sprintf(", %.1f s left to say yes", float64(s.DeadlineMS)/1000)
	}
	return text
}

func ask(ctx context.Context, c *guest.Client) (*guest.Status, error) {
	a, err := c.AskContext(ctx, guest.Request{Op: "status"})
	if err == nil && a.Status == nil {
		err = errors.New("the tag daemon does not answer")
	}
	return a.Status, err
}

// of keeps the tasks that are to be shown. It fails if there is none by the name that was asked
// for.
func (d display) of(s *guest.Status) (guest.Status, error) {
	kept := *s
	if d.task == "" {
		return kept, nil
	}
	kept.Tasks = slices.DeleteFunc(slices.Clone(s.Tasks), func(t guest.TaskStatus) bool {
		return t.Name != d.task && strconv.FormatUint(uint64(t.ID), 10) != d.task
	})
	if len(kept.Tasks) == 0 {
		kept.Tasks = []guest.TaskStatus{}
		return kept, fmt.Errorf("no task has the name or id %q", d.task)
	}
	return kept, nil
}

// object prints a status as one line of JSON.
func (d display) object(s guest.Status) error {
	e := json.NewEncoder(d.to)
	e.SetEscapeHTML(false)
	return e.Encode(shown{describe(&s), s})
}

func showStatus(socket string, d display) error {
	c, err := guest.Dial(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	all, err := ask(context.Background(), c)
	if err != nil {
		return err
	}
	s, err := d.of(all)
	switch {
	case err != nil:
		return err
	case d.json:
		return d.object(s)
	}
	fmt.Fprintf(d.to, "%s; epoch %d\n", describe(&s), s.Epoch)
	table := tabwriter.NewWriter(d.to, 0, 0, 2, ' ', 0)
	if len(s.Tasks) > 0 {
		fmt.Fprintln(table, "TASK\tSEGMENT\tDEPTH\tPID\tNAME")
	}
	for _, t := range s.Tasks {
		fmt.Fprintf(table, "%d\t%s\t%d\t%d\t%s\n",
			t.ID, side(t), t.Depth, t.PID, printable(t.Name))
	}
	return table.Flush()
}

// side tells where a task is.
func side(t guest.TaskStatus) string {
	if t.Depth > 0 {
		return "inside"
	}
	return "outside"
}

// printable returns a name as a terminal can show it: a program chose it.
func printable(name string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return '?'
		}
		return c
	}, name)
}

// watchPace is how often watch asks.
const watchPace = 200 * time.Millisecond

// watch prints what migrations do when that changes, and once a second while a deadline runs. Of a
// task it also prints when it enters and leaves its segment, begins and ends.
func watch(ctx context.Context, socket string, d display) error {
	c, err := guest.Dial(socket)
	if err != nil {
		return err
	}
	defer c.Close()
	var last *guest.Status
	for {
		all, err := ask(ctx, c)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		s, _ := d.of(all) // it may begin later
		if d.task == "" {
			s.Tasks = []guest.TaskStatus{}
		}
		if err := d.changes(last, &s); err != nil {
			return err
		}
		last = &s
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(watchPace):
		}
	}
}

// changes prints what has changed since the last look; nil if this is the first.
func (d display) changes(last, s *guest.Status) error {
	var text []string
	if last != nil && s.Epoch != last.Epoch {
		text = append(text, fmt.Sprintf("moved; epoch %d", s.Epoch))
	}
	if last == nil || s.State != last.State || s.DeadlineMS/1000 != last.DeadlineMS/1000 {
		text = append(text, describe(s))
	}
	if d.task != "" && (last == nil || sides(s) != sides(last)) {
		text = append(text, printable(d.task)+": "+sides(s))
	}
	switch {
	case len(text) == 0:
		return nil
	case d.json:
		return d.object(*s)
	}
	_, err := fmt.Fprintln(d.to, strings.Join(text, "\n"))
	return err
}

// sides tells where the tasks are: programs may have several of one name.
func sides(s *guest.Status) string {
	var all []string
	for _, t := range s.Tasks {
		all = append(all, side(t))
	}
	if len(all) == 0 {
		return "not there"
	}
	return strings.Join(all, ", ")
}
